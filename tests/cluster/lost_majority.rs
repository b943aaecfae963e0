//! A cluster that has lost its majority for good, made anew of the member that is left.

use crate::backup::{done, json, refused};
use crate::nodes::{Cluster, wait_until};

#[test]
fn the_last_of_three_becomes_a_cluster_that_others_join() {
    let mut cluster = Cluster::of_three(&[]);
    let (leader, survivor, other) = cluster.roles();
    for (slot, value) in [("1", "one"), ("2", "two"), ("3", "three")] {
        cluster.nodes[leader].asked(&["SET", slot, value]);
    }
    cluster.nodes[leader].asked(&["DEL", "2"]);
    cluster.wait_level();
    let old = cluster.nodes[survivor].directory.clone();
    let new = old.with_file_name("new");
    let [from, to] = [&old, &new].map(|path| path.to_str().unwrap());
    assert!(refused(1, &["recover", "-data", from]).contains("in use by another process"));
    for index in [leader, other, survivor] {
        cluster.nodes[index].kill();
    }
    for index in [leader, other] {
        cluster.wipe(index);
    }

    let found = json(&done(&["recover", "-json", "-data", from]));
    assert_eq!((found["role"].as_str(), &found["made"]), (Some("voter"), &json("null")), "{found}");
    assert!(found["age_s"].as_u64().is_some() && found["last"].as_u64() > Some(4), "{found}");
    let words = done(&["recover", "-data", from]);
    assert!(words.contains("with -unsafe everything behind entry"), "{words}");
    assert!(refused(2, &["recover", "-unsafe", "-data", from]).contains("-out"));
    assert!(refused(2, &["recover", "-data", from, "-out", to]).contains("-unsafe"));
    let wrong = ["recover", "-unsafe", "-data", from, "-out", to, "-program", "kvstore"];
    assert!(refused(2, &wrong).contains("give -program diskstore"));
    assert!(!new.exists(), "nothing was made");
    let made = json(&done(&["recover", "-json", "-unsafe", "-data", from, "-out", to]));
    assert_eq!(made["made"]["live"], 2, "{made}");
    assert_ne!(made["made"]["cluster_id"], found["cluster_id"]);
    let again = refused(2, &["recover", "-unsafe", "-data", from, "-out", to]);
    assert!(again.contains("new or empty"), "{again}");

    cluster.nodes[survivor].directory = new;
    cluster.nodes[survivor].start();
    wait_until("a leader of the new cluster", || {
        cluster.nodes[survivor].status().is_some_and(|status| status.role == "leader")
    });
    let get = |cluster: &Cluster, slot| cluster.nodes[survivor].asked(&["GET", slot]).text();
    let all = ["1", "2", "3"].map(|slot| get(&cluster, slot));
    assert_eq!(all, [Some("one".to_owned()), None, Some("three".to_owned())]);
    let join = cluster.nodes[survivor].raft_address();
    for index in [leader, other] {
        cluster.nodes[index].arguments = vec!["-join".to_owned(), join.clone()];
        cluster.nodes[index].start();
    }
    cluster.wait_voters(3);
    cluster.nodes[other].asked(&["SET", "2", "again"]);
    cluster.wait_level();
    for node in &cluster.nodes {
        let local = ["1", "2", "3"].map(|slot| node.local(slot).unwrap().unwrap_or_default());
        assert_eq!(local, ["one", "again", "three"], "{}", node.name);
    }
}
