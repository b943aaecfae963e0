//! `-cpuprofile`, `-memprofile` and SIGUSR1: files that pprof opens.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

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

#[track_caller]
fn wait_for(path: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} does not appear", path.display());
        std::thread::sleep(Duration::from_millis(5));
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
    let own = folder.join(format!("diskstore-{}-cpu.pb", node.pid()));
    for (path, begun) in [
        (own.clone(), own.with_extension("pb.tmp")),
        (own.with_extension("pb.2"), own.with_extension("pb.2.tmp")),
    ] {
        node.send("USR1");
        wait_for(&begun);
        assert!(!path.exists());
        let before = cpu_ticks(node.pid());
        let deadline = Instant::now() + PATIENCE;
        while cpu_ticks(node.pid()) < before + SAMPLED_TICKS {
            assert!(Instant::now() < deadline, "it spends no time on a processor");
            let load = ["bench", "-yes", "-requests", "3000", "-warm-up", "0s", "-keys", "4096"];
            place.asked(&[&load[..], &["-value-bytes", "64"]].concat());
        }
        node.send("USR1");
        wait_for(&path);
        assert!(!cpu_profile(&path).sample.is_empty(), "a busy node has samples");
        assert!(!begun.exists());
    }
    // One that runs when the node is asked to stop is written too.
    node.send("USR1");
    wait_for(&own.with_extension("pb.3.tmp"));
    node.stop();
    cpu_profile(&own.with_extension("pb.3"));
}
