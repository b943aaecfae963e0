//! The lines that a node prints on stdout at its start. Pure: turns configuration and status into
//! text.
//!
//! - I1: The first five lines are `ID:`, `app:`, `raft:`, `join:` and `hjoin:` with their values,
//!   because programs that start nodes for experiments read them. New lines come below.

use std::fmt::Display;

use crate::config::Config;
use crate::status::Status;

/// The five lines that every node begins with, printed before anything is opened.
pub fn head(config: &Config) -> String {
    let targets: Vec<String> = config.join_targets.iter().map(ToString::to_string).collect();
    let hjoin = config.join_address.as_ref().map(ToString::to_string).unwrap_or_default();
    let app = config.has_client_port.then(|| config.client_address.to_string());
    let lines: [(&str, &dyn Display); 5] = [
        ("ID:", &config.id),
        ("app:", &app.unwrap_or_default()),
        ("raft:", &config.raft_address),
        ("join:", &targets.join(",")),
        ("hjoin:", &hjoin),
    ];
    lines.map(|(name, value)| format!("{name} {value}").trim_end().to_owned() + "\n").concat()
}

/// Below them, once the node serves: a line on the file, one on the role, one on what to type.
/// `program` is how this one was started, `opening` what was found in the files.
pub fn tail(config: &Config, status: &Status, program: &str, opening: &str) -> String {
    let file = file_line(status, opening);
    format!("{file}\n{}\n{}\n", role_line(status), next_line(config, status, program))
}

fn file_line(status: &Status, opening: &str) -> String {
    let weakened = match status.unsafe_flags.as_slice() {
        [] => String::new(),
        flags => format!("; promises weakened by {}", flags.join(", ")),
    };
    format!("file: {opening}{weakened}")
}

fn role_line(status: &Status) -> String {
    let applied = status.applied;
    let members = match status.members.len() {
        0 => "members not known yet".to_owned(),
        1 => "the only member".to_owned(),
        count => format!("one of {count} members"),
    };
    let cluster = status.cluster_id.get(..8).unwrap_or(&status.cluster_id);
    match (status.role.as_str(), &status.leader) {
        ("leader", _) => format!("role: leader, {members} of cluster {cluster}, applied {applied}"),
        (role, Some(leader)) => {
            format!("role: {role} of {leader}, {members} of cluster {cluster}, applied {applied}")
        }
        (role, None) => {
            format!(
                "role: {role}, no leader yet, {members} of cluster {cluster}, applied {applied}"
            )
        }
    }
}

fn next_line(config: &Config, status: &Status, program: &str) -> String {
    if !config.kind().holds_values {
        return match &config.recovery_address {
            Some(address) => format!("next: recovery -recov {address}"),
            None => "next: add -hrecov ADDRESS to hand out what is recorded".to_owned(),
        };
    }
    let client = &config.client_address;
    let reached = if client.is_wildcard() { "127.0.0.1" } else { &client.host };
    let try_it = format!("redis-cli -h {reached} -p {} set 42 hello", client.port);
    if status.members.len() != 1 {
        return format!("next: {try_it}");
    }
    let join = config.join_address.as_ref().unwrap_or(&config.raft_address);
    let join = match &config.advertise_host {
        Some(host) => format!("{host}:{}", join.port),
        None => join.to_string(),
    };
    format!("next: {try_it}; add a node with: {program} -id NAME -port :P -raft :R -join {join}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Settings;
    use crate::config::MachineKind;
    use crate::status::MemberStatus;

    fn config(settings: Settings) -> Config {
        Config::new(MachineKind::Slots, settings).unwrap()
    }

    fn status(members: usize) -> Status {
        Status {
            role: "leader".to_owned(),
            cluster_id: "0123456789abcdef0123456789abcdef".to_owned(),
            members: vec![MemberStatus::default(); members],
            applied: 7,
            ..Status::default()
        }
    }

    #[test]
    fn the_first_five_lines_are_those_of_the_original() {
        let settings = Settings {
            id: Some("a".to_owned()),
            join: Some(":13000,b:13000".to_owned()),
            hjoin: Some(":13001".to_owned()),
            ..Settings::default()
        };
        let expected = "ID: a\napp: 127.0.0.1:11000\nraft: 127.0.0.1:12000\n\
                        join: 127.0.0.1:13000,b:13000\nhjoin: 127.0.0.1:13001\n";
        assert_eq!(head(&config(settings)), expected);
        let lines = head(&config(Settings::default()));
        assert!(lines.ends_with("\njoin:\nhjoin:\n"), "{lines}");
    }

    #[test]
    fn a_lone_node_says_how_to_add_another() {
        let expected = "\
file: made 8 slots
role: leader, the only member of cluster 01234567, applied 7
next: redis-cli -h 127.0.0.1 -p 11000 set 42 hello; add a node with: \
./diskstore -id NAME -port :P -raft :R -join 127.0.0.1:12000
";
        let config = config(Settings::default());
        assert_eq!(tail(&config, &status(1), "./diskstore", "made 8 slots"), expected);
    }

    #[test]
    fn a_member_names_its_leader_and_what_weakens_its_promises() {
        let mut status = status(3);
        status.role = "follower".to_owned();
        status.leader = Some("node0".to_owned());
        status.unsafe_flags = vec!["-sync never".to_owned()];
        let text = tail(&config(Settings::default()), &status, "diskstore", "8 slots");
        assert!(text.contains("file: 8 slots; promises weakened by -sync never\n"));
        assert!(text.contains("role: follower of node0, one of 3 members of cluster"), "{text}");
        assert!(text.ends_with("next: redis-cli -h 127.0.0.1 -p 11000 set 42 hello\n"), "{text}");
        status.leader = None;
        assert!(
            tail(&config(Settings::default()), &status, "", "").contains("follower, no leader yet")
        );
    }
}
