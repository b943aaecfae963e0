//! What is refused before anything is opened, and help.

use std::net::TcpListener;

use crate::harness::{Place, names, refused, run, stderr, stdout};

#[test]
fn an_unknown_flag_gets_usage_and_the_nearest_match() {
    let text = refused(2, &["-prot", ":5"]);
    assert!(text.contains("'-prot'") && text.contains("'-port'"), "{text}");
    assert!(text.contains("Usage: diskstore"), "{text}");
}

#[test]
fn wrong_usage_exits_with_2_and_names_the_thing() {
    for (arguments, words) in [
        (&["-slots", "abc"][..], "-slots `abc`: give a whole number from 1 to 1099511627776\n"),
        (&["-slots", "0"], "-slots `0`: give a whole number from 1 to"),
        (&["demo", "-slots", "x"], "-slots `x`: give a whole number from 1 to"),
        (&["demo", "-value-size", "0"], "-value-size `0`: give a whole number from 1 to"),
        (&["-join", ":12000"], "this node's own -raft"),
        (&["-slots", "1099511627776"], "-slots 1099511627776 of -value-size 1024"),
        (&["-port"], "-port"),
        (&["-port", "host"], "-port `host`"),
        (&["-read", "fast"], "give one of linearizable, lease, local, log"),
        (&["-insecure=maybe"], "-insecure"),
        (&["-insecure", "yes"], "`yes` behind -insecure"),
        (&["-port", "0.0.0.0:5"], "add -insecure"),
        (&["-id", "../x"], "-id `../x`"),
        (&["-join", "a b"], "-join `a b`"),
        (&["-config", "/nowhere"], "-config /nowhere"),
        (&["statsu"], "'status'"),
        (&["get"], "<KEY>"),
        (&["get", "1", "2"], "'2'"),
        (&["get", "1", "-addr", "x"], "-addr `x`"),
        (&["top", "-addr", "127.0.0.1:1"], "top draws on a terminal, and here is none"),
        (&["top", "-every", "1ms"], "-every `1ms`: 100ms to 60s"),
    ] {
        let text = refused(2, arguments);
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    for arguments in [&["-h"][..], &["-help"], &["--help"], &["demo", "-help"], &["help"]] {
        let output = run(arguments);
        assert!(output.status.success() && output.stderr.is_empty());
        assert!(stdout(&output).contains("Usage: diskstore"));
    }
    assert_eq!(
        stdout(&run(&["-version"])).trim(),
        concat!("diskstore ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_bad_configuration_file_is_refused_before_anything_is_made() {
    let place = Place::new();
    let file = place.file("node.toml");
    for (text, words) in [
        ("valuesize = 5", "did you mean `value-size`?"),
        ("slots = \"many\"", "line 1"),
        ("slots = ", "line 1"),
        ("read = \"fast\"", "-read `fast`"),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = place.refused(2, &["-config", &file]);
        assert!(error.contains(words), "{text}: {error}");
        assert!(!place.data().exists());
    }
}

#[test]
fn a_sub_command_without_a_node_says_so() {
    let place = Place::new();
    for arguments in [&["get", "1"][..], &["set", "1", "x"], &["delete", "1"], &["status"]] {
        let output = place.ask(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("no node answers"), "{}", stderr(&output));
        assert!(stderr(&output).contains(&place.client()));
    }
}

#[test]
fn inspecting_what_is_no_file_of_a_node_says_so() {
    let place = Place::new();
    let text = refused(1, &["inspect", &place.file("none")]);
    assert!(text.contains("none failed: No such file") && !text.contains("byte"), "{text}");
    for content in ["", "just some text", "0123456789"] {
        std::fs::write(place.file("notes"), content).unwrap();
        let text = refused(1, &["inspect", &place.file("notes")]);
        assert!(text.contains("notes is none of diskstore's files"), "{text}");
        assert!(!text.contains("corrupt"), "{text}");
    }
}

#[test]
fn a_port_in_use_is_named_with_the_way_out() {
    for flag in ["-port", "-raft", "-hjoin"] {
        let place = Place::new();
        let address = format!("{}:11500", place.host);
        let _taken = TcpListener::bind(&address).unwrap();
        let text = place.refused(1, &[flag, &address]);
        assert!(text.contains(flag) && text.contains(&address), "{text}");
        assert!(text.contains("stop the program that has it"), "{text}");
        let made = names(&place.data());
        assert!(made.iter().all(|name| name == "LOCK" || name == "tmp"), "{made:?}");
    }
}

#[test]
fn what_keeps_a_directory_from_being_used_is_named_with_the_way_out() {
    let place = Place::new();
    std::fs::create_dir(place.data()).unwrap();
    std::fs::write(place.data().join("IDENTITY"), "something else").unwrap();
    let text = place.refused(1, &[]);
    assert!(text.contains("IDENTITY is corrupt") && text.contains("start it with -join"), "{text}");
    std::fs::remove_dir_all(place.data()).unwrap();
    std::fs::write(place.data(), "").unwrap();
    let text = place.refused(1, &[]);
    assert!(text.contains("File exists") && text.contains("give another -data"), "{text}");
}

#[test]
fn a_profile_that_could_not_be_written_is_refused_at_the_start() {
    let place = Place::new();
    for flag in ["-cpuprofile", "-memprofile"] {
        let text = place.refused(1, &[flag, "/nowhere/profile.pb"]);
        assert!(text.contains(flag) && text.contains("/nowhere/profile.pb"), "{text}");
        assert!(!place.data().exists());
    }
}
