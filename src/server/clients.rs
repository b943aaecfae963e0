//! The connections that are open, for CLIENT LIST and the limit on their number.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

/// One open connection.
#[derive(Debug)]
pub(crate) struct Client {
    id: u64,
    address: SocketAddr,
    since: Instant,
    texts: Mutex<Texts>,
}

/// What a client says of itself.
#[derive(Debug, Clone, Default)]
struct Texts {
    name: String,
    library: String,
    library_version: String,
}

impl Client {
    /// A connection that is in no registry.
    pub(crate) fn new(id: u64, address: SocketAddr) -> Client {
        Client { id, address, since: Instant::now(), texts: Mutex::default() }
    }

    /// Number of the connection, never used twice.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The name that the client gave itself; empty until then.
    pub(crate) fn name(&self) -> String {
        self.texts.lock().name.clone()
    }

    /// Names the client.
    pub(crate) fn rename(&self, name: String) {
        self.texts.lock().name = name;
    }

    /// Notes the client's library.
    pub(crate) fn note_library(&self, library: String) {
        self.texts.lock().library = library;
    }

    /// Notes the version of the client's library.
    pub(crate) fn note_library_version(&self, version: String) {
        self.texts.lock().library_version = version;
    }

    /// One line as CLIENT LIST has it.
    pub(crate) fn line(&self) -> String {
        let Texts { name, library, library_version } = self.texts.lock().clone();
        let age = self.since.elapsed().as_secs();
        let (id, address) = (self.id, self.address);
        format!(
            "id={id} addr={address} name={name} age={age} db=0 lib-name={library} \
             lib-ver={library_version}\n"
        )
    }
}

/// All open connections.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    last_id: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Client>>>,
}

impl Clients {
    /// Registers a connection until the returned guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, address: SocketAddr) -> Entered {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client::new(id, address));
        self.open.lock().insert(id, Arc::clone(&client));
        Entered { clients: Arc::clone(self), client }
    }

    /// How many connections are open.
    pub(crate) fn count(&self) -> usize {
        self.open.lock().len()
    }

    /// How many connections there have been.
    pub(crate) fn count_ever(&self) -> u64 {
        self.last_id.load(Ordering::Relaxed)
    }

    /// One line for each connection.
    pub(crate) fn lines(&self) -> String {
        let open = self.open.lock().values().cloned().collect::<Vec<_>>();
        open.iter().fold(String::new(), |mut text, client| {
            let written = text.write_str(&client.line());
            written.expect("invariant: writing to a string does not fail");
            text
        })
    }
}

/// Keeps one connection in the registry.
#[derive(Debug)]
pub(crate) struct Entered {
    clients: Arc<Clients>,
    client: Arc<Client>,
}

impl Entered {
    /// The connection.
    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.clients.open.lock().remove(&self.client.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_listed_until_it_ends() {
        let clients = Arc::new(Clients::default());
        let address = SocketAddr::from(([127, 0, 0, 1], 5));
        let first = clients.enter(address);
        let second = clients.enter(address);
        second.client().rename("two".to_owned());
        drop(first);
        assert_eq!((clients.count(), clients.count_ever()), (1, 2));
        assert!(clients.lines().starts_with("id=2 addr=127.0.0.1:5 name=two "));
    }
}
