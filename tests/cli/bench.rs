//! `diskstore bench` against a real node.

use crate::harness::{Place, refused, stderr, stdout};

#[test]
fn a_load_is_reported_as_a_table_and_as_json() {
    let place = Place::new();
    let _node = place.start(&[]);
    let load = ["bench", "-yes", "-requests", "500", "-warm-up", "0s", "-value-bytes", "64"];
    let text = place.asked(&[&load[..], &["-verify"]].concat());
    assert!(text.contains("\nreads ") && text.contains("\nwrites "), "{text}");
    assert!(text.contains("\n0 errors"), "{text}");

    let file = place.file("run.hgrm");
    let json = place.asked(&[&load[..], &["-json", "-reads", "0", "-hgrm", &file]].concat());
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["writes"]["count"], 500);
    assert_eq!(report["reads"]["count"], 0);
    assert_eq!(report["errors"].as_array().unwrap().len(), 0);
    let series = report["series"].as_array().unwrap();
    assert_eq!(series.iter().map(|second| second["writes"].as_u64().unwrap()).sum::<u64>(), 500);
    assert!(std::fs::read_to_string(&file).unwrap().contains("Percentile"));
}

#[test]
fn workloads_have_names_and_reports_say_what_weakens_their_result() {
    let place = Place::new();
    let _node = place.start(&["-sync", "never"]);
    let run = |name: &str| -> serde_json::Value {
        let load = ["bench", "-yes", "-workload", name, "-keys", "500", "-warm-up", "0s", "-json"];
        let more: &[&str] = if name == "fill" { &[] } else { &["-requests", "1000"] };
        serde_json::from_str(&place.asked(&[&load[..], more].concat())).unwrap()
    };
    assert_eq!(run("fill")["writes"]["count"], 500);
    for name in ["original", "a", "b", "c", "d", "f", "update-uniform", "update-latest"] {
        let report = run(name);
        assert_eq!(report["workload"], name);
        assert_eq!(report["unsafe_flags"], serde_json::json!(["-sync never"]));
        assert_eq!(report["all"]["count"], 1000, "{name}");
        assert_eq!(
            (&report["missing"], report["errors"].as_array().unwrap().len()),
            (&0.into(), 0)
        );
        assert_eq!(report["modifies"]["count"].as_u64().unwrap() > 0, name == "f");
        assert_eq!(report["reads"]["count"].as_u64().unwrap() > 0, !name.starts_with("update"));
    }
}

#[test]
fn a_load_of_which_nothing_succeeds_exits_with_1() {
    let place = Place::new();
    let _node = place.start(&[]);
    let load =
        ["bench", "-requests", "50", "-warm-up", "0s", "-reads", "0", "-value-bytes", "1025"];
    let output = place.ask(&load);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("nothing succeeded"), "{}", stderr(&output));
    assert!(stdout(&output).contains("\n50 errors"), "{}", stdout(&output));
}

#[test]
fn wrong_flags_of_a_load_exit_with_2_and_no_node_with_1() {
    let text = refused(2, &["bench", "-distribution", "even"]);
    assert!(text.contains("uniform, zipfian, latest, sequential"), "{text}");
    let place = Place::new();
    let text = refused(1, &["bench", "-addr", &place.client()]);
    assert!(text.contains("no node answers"), "{text}");
}

#[test]
fn a_store_that_holds_values_is_not_written_over_unasked() {
    let place = Place::new();
    let _node = place.start(&[]);
    place.asked(&["set", "7", "mine"]);
    let load = ["bench", "-requests", "50", "-warm-up", "0s", "-reads", "0", "-keys", "8"];
    let output = place.ask(&load);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("holds a value") && text.contains("give -yes"), "{text}");
    assert_eq!(place.asked(&["get", "7"]), "mine\n");
    let reads = ["bench", "-requests", "50", "-warm-up", "0s", "-reads", "100"];
    assert!(place.asked(&reads).contains("\n0 errors"), "reads need nobody's word");
    place.asked(&[&load[..], &["-yes"]].concat());
    assert_ne!(place.asked(&["get", "7"]), "mine\n");
}

#[test]
fn operations_that_fail_fail_the_load_unless_they_were_expected() {
    let place = Place::new();
    let _node = place.start(&[]);
    let text = stderr(&place.ask(&["bench", "-keys", "4097"]));
    assert!(text.contains("-keys `4097`: the node has 4096 slots"), "{text}");
    // Half of the lengths have no room.
    let lengths = ["-value-bytes", "1-2048", "-yes"];
    let load = [&["bench", "-requests", "200", "-warm-up", "0s", "-reads", "0"], &lengths[..]];
    let load = load.concat();
    let output = place.ask(&load);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("operations failed, such as: ERR value"), "{output:?}");
    assert!(stdout(&output).contains("\nwrites "), "the report is printed all the same");
    assert_eq!(place.ask(&[&load[..], &["-faults", "nodes"]].concat()).status.code(), Some(1));
    for faults in ["ERR", "any", "nodes,ERR"] {
        place.asked(&[&load[..], &["-faults", faults]].concat());
    }
}
