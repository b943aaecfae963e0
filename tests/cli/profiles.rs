//! `-cpuprofile`, `-memprofile` and SIGUSR1: files that pprof opens.

use std::io::Read;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use pprof::protos::{Message, Profile};

use crate::harness::{Node, PATIENCE, Place, SAMPLED_TICKS, cpu_ticks, names, program};

/// A CPU profile as another program reads it: every sample leads to locations that are there.
#[track_caller]
fn cpu_profile(path: &Path) -> Profile {
    let profile = Profile::decode(&*std::fs::read(path).unwrap()).unwrap();
    let text = |index: i64| profile.string_table[usize::try_from(index).unwrap()].as_str();
    let types: Vec<_> = profile.sample_type.iter().map(|kind| text(kind.ty)).collect();
    assert_eq!(types, ["samples", "cpu"]);
    let is_there = |id: &u64| profile.location.iter().any(|location| location.id == *id);
    assert!(profile.sample.iter().flat_map(|sample| &sample.location_id).all(is_there));
    profile
}

/// Waits until a program says something on stderr.
#[track_caller]
fn wait_for(words: &Receiver<String>, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let said = words.recv_timeout(left);
        if said.unwrap_or_else(|_| panic!("it does not say `{wanted}`")).contains(wanted) {
            return;
        }
    }
}

#[test]
fn profiles_are_written_at_a_clean_stop_and_can_be_read() {
    let place = Place::new();
    let (cpu, heap) = (place.file("cpu.pb"), place.file("heap.pb"));
    let node = place.start(&["-cpuprofile", &cpu, "-memprofile", &heap]);
    place.asked(&["set", "1", "x"]);
    node.stop();
    cpu_profile(Path::new(&cpu));
    let mut bytes = Vec::new();
    let packed = std::fs::File::open(&heap).unwrap();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    let heap = Profile::decode(&*bytes).unwrap();
    assert!(heap.string_table.iter().any(|text| text == "inuse_space"));
    assert!(!heap.sample.is_empty() && !heap.location.is_empty());
    assert!(names(place.directory.path()).iter().all(|name| !name.contains(".tmp")));
}

#[test]
fn a_signal_begins_a_cpu_profile_and_the_next_one_writes_it() {
    let place = Place::new();
    let folder = place.directory.path();
    let mut node =
        Node::spawn(program().args(place.arguments(&[])).current_dir(place.directory.path()));
    node.wait_for("next: ");
    let words = node.words();
    let own = folder.join(format!("diskstore-{}-cpu.pb", node.pid()));
    for (path, begun) in [
        (own.clone(), own.with_extension("pb.tmp")),
        (own.with_extension("pb.2"), own.with_extension("pb.2.tmp")),
    ] {
        node.send("USR1");
        // Its file is there before it: what the program does until it says so is not sampled.
        wait_for(&words, "CPU profile begun");
        assert!(begun.exists() && !path.exists());
        let before = cpu_ticks(node.pid());
        let deadline = Instant::now() + PATIENCE;
        while cpu_ticks(node.pid()) < before + SAMPLED_TICKS {
            assert!(Instant::now() < deadline, "it spends no time on a processor");
            let load = ["bench", "-yes", "-requests", "3000", "-warm-up", "0s", "-keys", "4096"];
            place.asked(&[&load[..], &["-value-bytes", "64"]].concat());
        }
        node.send("USR1");
        wait_for(&words, "CPU profile written");
        assert!(!cpu_profile(&path).sample.is_empty(), "a busy node has samples");
        assert!(!begun.exists());
    }
    // One that runs when the node is asked to stop is written too.
    node.send("USR1");
    wait_for(&words, "CPU profile begun");
    assert!(own.with_extension("pb.3.tmp").exists());
    node.stop();
    cpu_profile(&own.with_extension("pb.3"));
}
