//! What a node tells the service manager that started it.

use std::os::unix::net::UnixDatagram;

use crate::harness::{Node, PATIENCE, Place, program};

#[test]
fn service_manager_hears_when_a_node_serves_and_when_it_stops() {
    let place = Place::new();
    let path = place.directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut bytes = [0; 256];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let mut command = program();
    let mut node = Node::spawn(command.args(place.arguments(&[])).env("NOTIFY_SOCKET", &path));
    assert_eq!(heard(), "READY=1\n");
    place.ask(&["status"]).stdout.first().expect("who hears it may send clients");
    // It may not lead yet: that it does, its banner says.
    node.wait_for("next: ");
    place.asked(&["status"]);
    node.send("TERM");
    assert_eq!(heard(), "STOPPING=1\n");
    assert_eq!(node.wait().code(), Some(0));
    drop(manager);
    // Nobody listens any more: a node does not mind.
    let mut node = Node::spawn(&mut command);
    node.wait_for("next: ");
    node.stop();
}
