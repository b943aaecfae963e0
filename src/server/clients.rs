//! The connections that are open, for CLIENT LIST and the limit on their number.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::counters::Counters;
use crate::messages::{Messages, Selector, Subscriber};
use crate::tls::Bearer;

/// One open connection.
#[derive(Debug)]
pub(crate) struct Client {
    id: u64,
    address: SocketAddr,
    local_address: Option<SocketAddr>,
    since: Instant,
    counters: Arc<Counters>,
    /// Set under TLS: whom the client's certificate names, if it showed one.
    certified: OnceLock<Option<Bearer>>,
    shown: Mutex<Shown>,
    /// From its first SUBSCRIBE on.
    subscriber: OnceLock<Subscriber>,
}

/// What others may see of a client.
#[derive(Debug, Clone, Default)]
struct Shown {
    name: String,
    library: String,
    library_version: String,
    /// The name of its token.
    user: Option<String>,
    activity: Option<Activity>,
    /// When that was.
    active_at: Option<Instant>,
}

/// What a client did last, and the state that it left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Activity {
    /// The command's name.
    pub(crate) command: &'static str,
    /// The version of the protocol.
    pub(crate) version: u8,
    /// Requests that wait in a transaction, if there is one.
    pub(crate) queued: Option<usize>,
    /// Keys that are watched.
    pub(crate) watched: usize,
}

impl Client {
    /// A connection that is in no registry.
    pub(crate) fn new(id: u64, address: SocketAddr) -> Client {
        let counters = Arc::default();
        let (local_address, since, certified) = (None, Instant::now(), OnceLock::new());
        let (shown, subscriber) = Default::default();
        Client { id, address, local_address, since, counters, certified, shown, subscriber }
    }

    /// The connection is under TLS, and this was shown on it.
    pub(crate) fn note_tls(&self, certified: Option<Bearer>) {
        drop(self.certified.set(certified)); // a connection begins once
    }

    /// True if the connection is under TLS.
    pub(crate) fn is_under_tls(&self) -> bool {
        self.certified.get().is_some()
    }

    /// Whom the client's certificate names: it was verified. `None` if it showed none.
    pub(crate) fn certified(&self) -> Option<&Bearer> {
        self.certified.get()?.as_ref()
    }

    /// Number of the connection, never used twice.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The client's end of the connection.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What all clients have asked.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Our end of the connection, where that is known.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        self.local_address
    }

    /// The name that the client gave itself; empty until then.
    pub(crate) fn name(&self) -> String {
        self.shown.lock().name.clone()
    }

    /// Names the client.
    pub(crate) fn rename(&self, name: String) {
        self.shown.lock().name = name;
    }

    /// Notes the client's library.
    pub(crate) fn note_library(&self, library: String) {
        self.shown.lock().library = library;
    }

    /// Notes the version of the client's library.
    pub(crate) fn note_library_version(&self, version: String) {
        self.shown.lock().library_version = version;
    }

    /// What it listens to, from its first SUBSCRIBE on.
    pub(crate) fn subscriber(&self) -> Option<&Subscriber> {
        self.subscriber.get()
    }

    /// The same, which begins now if it has not yet.
    pub(crate) fn subscriber_in(&self, messages: &Arc<Messages>) -> &Subscriber {
        self.subscriber.get_or_init(|| messages.subscriber())
    }

    /// How many channels and patterns it listens to.
    pub(crate) fn name_count(&self) -> usize {
        let of = |selector| self.subscriber().map_or(0, |subscriber| subscriber.count(selector));
        of(Selector::Channel) + of(Selector::Pattern)
    }

    /// Notes whose token it presented.
    pub(crate) fn note_user(&self, user: Option<String>) {
        self.shown.lock().user = user;
    }

    /// Notes what the client did last.
    pub(crate) fn note_activity(&self, activity: Activity) {
        let mut shown = self.shown.lock();
        (shown.activity, shown.active_at) = (Some(activity), Some(Instant::now()));
    }

    /// One line as CLIENT LIST has it: the fields of Redis that mean something here.
    pub(crate) fn line(&self) -> String {
        let Shown { name, library, library_version, user, activity, active_at } =
            self.shown.lock().clone();
        let (id, address, age) = (self.id, self.address, self.since.elapsed().as_secs());
        let local = self.local_address.map_or_else(String::new, |local| local.to_string());
        let idle = active_at.unwrap_or(self.since).elapsed().as_secs();
        let queued = activity.and_then(|activity| activity.queued);
        let multi = queued.map_or_else(|| "-1".to_owned(), |queued| queued.to_string());
        let watch = activity.map_or(0, |activity| activity.watched);
        let command = activity.map_or("NULL", |activity| activity.command);
        let version = activity.map_or(2, |activity| activity.version);
        let certified = self.certified().map(|bearer| format!(" certificate={}", bearer.uri()));
        let certified = certified.unwrap_or_default();
        let user = user.as_deref().unwrap_or("default");
        let of = |selector| self.subscriber().map_or(0, |subscriber| subscriber.count(selector));
        let (channels, patterns) = (of(Selector::Channel), of(Selector::Pattern));
        let flags = match (channels + patterns > 0, queued.is_some()) {
            (false, false) => "N",
            (false, true) => "x",
            (true, false) => "P",
            (true, true) => "Px",
        };
        format!(
            "id={id} addr={address} laddr={local} name={name} age={age} idle={idle} flags={flags} \
             db=0 sub={channels} psub={patterns} ssub=0 multi={multi} watch={watch} cmd={command} user={user} \
             resp={version} lib-name={library} lib-ver={library_version}{certified}\n"
        )
    }
}

/// All open connections.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    last_id: AtomicU64,
    counters: Arc<Counters>,
    open: Mutex<BTreeMap<u64, Arc<Client>>>,
}

impl Clients {
    /// Registers a connection until the returned guard is dropped.
    pub(crate) fn enter(
        self: &Arc<Self>,
        address: SocketAddr,
        local_address: Option<SocketAddr>,
    ) -> Entered {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let counters = Arc::clone(&self.counters);
        let client = Arc::new(Client { local_address, counters, ..Client::new(id, address) });
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

    /// What all clients have asked.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The same, to keep.
    pub(crate) fn counters_shared(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// One line for each connection; for those with one of these numbers alone, if any is given, and
    /// for those that listen to channels or do not, if that is asked.
    pub(crate) fn lines(&self, ids: &[u64], listening: Option<bool>) -> String {
        let is_asked = |id: &u64| ids.is_empty() || ids.contains(id);
        let open = self.open.lock();
        let is_kind = |client: &Client| {
            listening.is_none_or(|listening| listening == (client.name_count() > 0))
        };
        let asked = open.iter().filter(|(id, client)| is_asked(id) && is_kind(client));
        let open = asked.map(|(_, client)| client.clone()).collect::<Vec<_>>();
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
        let first = clients.enter(address, None);
        let second = clients.enter(address, Some(SocketAddr::from(([127, 0, 0, 2], 6))));
        second.client().rename("two".to_owned());
        drop(first);
        assert_eq!((clients.count(), clients.count_ever()), (1, 2));
        let lines = clients.lines(&[], None);
        assert!(lines.starts_with("id=2 addr=127.0.0.1:5 laddr=127.0.0.2:6 name=two "), "{lines}");
        assert_eq!((clients.lines(&[2], None), clients.lines(&[1], None)), (lines, String::new()));
    }

    #[test]
    fn a_client_is_shown_as_it_was_last() {
        let client = Client::new(7, SocketAddr::from(([127, 0, 0, 1], 5)));
        assert!(
            client.line().contains(" flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 watch=0 cmd=NULL ")
        );
        let (command, version, queued, watched) = ("incr", 3, Some(2), 1);
        client.note_activity(Activity { command, version, queued, watched });
        let line = client.line();
        let fields =
            " flags=x db=0 sub=0 psub=0 ssub=0 multi=2 watch=1 cmd=incr user=default resp=3 ";
        assert!(line.contains(fields), "{line}");
    }
}
