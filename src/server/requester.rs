//! The client behind one connection, of any protocol: how fresh its reads must be, the index of its
//! last write, and its counters.
//!
//! The turn and `ask` put requests to the node through it; dialects use its counters.
//!
//! Invariants:
//! - I1: a client's next read sees every write whose result the client has been told: every result
//!   goes through [`note`].
//!
//! [`note`]: Requester::note

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::access::{
    Access, ClientRole, Credentials, Denial, RequestKind, TokenHolder, WRONG_TOKEN_PAUSE,
};
use super::clients::Client;
use super::complaint::Complaint;
use super::counters::Operations;
use super::detect::Protocol;
use super::resp::Spec;
use crate::command::{Command, CommandResult, Failure, FailureClass, Freshness, ReadLevel};
use crate::metrics::Times;
use crate::node::{FreshReplica, Node, Order, OrderError};

/// How long a join token may count, in seconds: a year.
const JOIN_TOKEN_S_MAX: u64 = 31_536_000;

/// What a client hears that has presented no token, in the words of Redis.
const NO_TOKEN: &str = "Authentication required.";
/// The same for HELLO.
const NO_TOKEN_FOR_HELLO: &str = "HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
     <user> <pass> option can be used to authenticate the client and select the RESP protocol \
     version at the same time";

/// One client as the node serves it.
#[derive(Debug, Clone)]
pub(crate) struct Requester {
    client: Arc<Client>,
    /// How fresh reads are unless the client asks for less.
    level: ReadLevel,
    freshness: Freshness,
    protocol: Protocol,
    /// When the results of the last write were there, until that is asked.
    answered: Option<Instant>,
    access: Arc<Access>,
    /// Whose token it presented, if it has.
    holder: Option<TokenHolder>,
    /// What it may do, as of the last look.
    granted: Option<ClientRole>,
    /// Whether its answer is to wait, since it presented a wrong token.
    is_held: bool,
    /// Whether the node stops.
    is_stopping: bool,
}

impl Requester {
    /// A client that has asked nothing yet, of a node whose reads are of `level`.
    pub(crate) fn new(
        client: Arc<Client>,
        level: ReadLevel,
        protocol: Protocol,
        access: Arc<Access>,
    ) -> Requester {
        Requester {
            client,
            level,
            freshness: Freshness::of(level),
            protocol,
            answered: None,
            granted: access.granted(None),
            access,
            holder: None,
            is_held: false,
            is_stopping: false,
        }
    }

    /// Looks anew at what the client may do: its token may have been removed, or have expired.
    pub(crate) fn renew(&mut self) {
        if let Some(holder) = &mut self.holder {
            self.granted = self.access.granted(Some(holder));
        }
    }

    /// Whether the client may do what is of this kind.
    pub(crate) fn may(&self, kind: RequestKind) -> bool {
        kind.needs() <= self.granted
    }

    /// What the client may do, as of the last look; `None`: only what needs no token.
    pub(crate) fn granted(&self) -> Option<ClientRole> {
        self.granted
    }

    /// The name of the client's token; `default` if it has none.
    pub(crate) fn user(&self) -> &str {
        self.holder.as_ref().map_or("default", TokenHolder::name)
    }

    /// Counts that the client may not do `what`; what it is told.
    pub(crate) fn denied(&self, what: &str) -> Complaint {
        let denial = if self.granted.is_none() { Denial::NoToken } else { Denial::Role };
        self.access.count(denial, self.client.address());
        if denial == Denial::NoToken {
            return Complaint::new(FailureClass::NoToken, NO_TOKEN);
        }
        let user = self.user();
        let text = format!("User {user} has no permissions to run the '{what}' command");
        Complaint::new(FailureClass::Forbidden, text)
    }

    /// Checks that the client may do what is of this kind, where a token comes in a header.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn check(&self, kind: RequestKind) -> Result<(), Complaint> {
        if self.may(kind) {
            return Ok(());
        }
        let complaint = self.denied("");
        let text = match kind.needs().filter(|_| complaint.class == FailureClass::Forbidden) {
            Some(role) => {
                format!("the token of {} may not: this needs the role {role}", self.user())
            }
            None => "a token is needed: Authorization: Bearer TOKEN".to_owned(),
        };
        Err(Complaint { text: text.into(), ..complaint })
    }

    /// As [`Requester::denied`], of HELLO.
    pub(crate) fn denied_hello(&self) -> Complaint {
        Complaint { text: NO_TOKEN_FOR_HELLO.into(), ..self.denied("hello") }
    }

    /// Takes a token that the client presents. A wrong one leaves it what it may do already, and makes
    /// its answer wait; where no tokens are needed, none is wrong.
    ///
    /// # Errors
    /// It is wrong.
    pub(crate) fn authenticate(&mut self, presented: Credentials<'_>) -> Result<(), Complaint> {
        if !self.access.is_guarded() {
            return Ok(());
        }
        match self.access.identify(presented) {
            Ok(holder) => {
                self.client.note_user(Some(holder.name().to_owned()));
                self.holder = Some(holder);
                self.renew();
                Ok(())
            }
            Err(complaint) => {
                self.access.count(Denial::WrongToken, self.client.address());
                self.is_held = true;
                Err(complaint)
            }
        }
    }

    /// Forgets the token that the client presented.
    pub(crate) fn forget_token(&mut self) {
        if self.holder.take().is_some() {
            self.client.note_user(None);
            self.granted = self.access.granted(None);
        }
    }

    /// Whether a token is needed at all.
    pub(crate) fn is_guarded(&self) -> bool {
        self.access.is_guarded()
    }

    /// Waits, if the answer is to wait.
    pub(crate) async fn wait_if_held(&mut self) {
        if std::mem::take(&mut self.is_held) {
            sleep(WRONG_TOKEN_PAUSE).await;
        }
    }

    /// The node stops: nothing is begun any more that may take a while.
    pub(crate) fn note_stopping(&mut self) {
        self.is_stopping = true;
    }

    /// Checks that something may be begun, which takes a while if it is work.
    ///
    /// # Errors
    /// The node stops.
    pub(crate) fn check_begins(&self, is_work: bool) -> Result<(), Complaint> {
        if self.is_stopping && is_work { Err(Failure::Stopping.into()) } else { Ok(()) }
    }

    /// The same, which wrote up to `index` before.
    pub(crate) fn after(mut self, index: u64) -> Requester {
        self.freshness.written_index = index;
        self
    }

    /// The connection as others see it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// How fresh the next read must be.
    pub(crate) fn freshness(&self) -> Freshness {
        self.freshness
    }

    /// Reads from this replica from now on, or as the node is set to again.
    pub(crate) fn read_locally(&mut self, is_local: bool) {
        self.freshness.level = if is_local { ReadLevel::Local } else { self.level };
    }

    /// Reads as fresh as this from now on, or as the node is set to.
    pub(crate) fn read_at(&mut self, level: Option<ReadLevel>) {
        self.freshness.level = level.unwrap_or(self.level);
    }

    /// Counts a request that is going to be executed, or queued; `None` is no command.
    pub(crate) fn called(&self, command: Option<&'static Spec>) {
        self.client.counters().called(command);
    }

    /// Counts a request that is refused; `None` is no command.
    pub(crate) fn rejected(&self, command: Option<&'static Spec>) {
        self.client.counters().rejected(command);
    }

    /// Takes in what became of one command (I1).
    pub(crate) fn note(&mut self, result: &CommandResult) {
        self.freshness.note(result);
        self.client.counters().looked_up(result);
    }

    /// Proposes all of `commands` together; the results are in their order.
    pub(crate) async fn write(
        &mut self,
        node: &Node,
        commands: Vec<Command>,
    ) -> Vec<CommandResult> {
        let begun = Instant::now();
        let results = node.write(commands).await;
        self.answered = Some(self.took(begun, &results, |operations| &operations.writes));
        results
    }

    /// Reads all of `commands` in one round, as fresh as this client needs them.
    pub(crate) async fn read(&mut self, node: &Node, commands: Vec<Command>) -> Vec<CommandResult> {
        let begun = Instant::now();
        let results = node.read(commands, self.freshness).await;
        self.took(begun, &results, |operations| &operations.reads);
        results
    }

    /// Proposes one command.
    pub(crate) async fn write_one(&mut self, node: &Node, command: Command) -> CommandResult {
        the_one(self.write(node, vec![command]).await)
    }

    /// Executes one command that only reads, as fresh as `level` says or as the node is set to.
    pub(crate) async fn read_one(
        &mut self,
        node: &Node,
        command: Command,
        level: Option<ReadLevel>,
    ) -> CommandResult {
        self.read_at(level);
        let commands = vec![command];
        the_one(match self.freshness.level {
            ReadLevel::Log => self.write(node, commands).await,
            ReadLevel::Linearizable | ReadLevel::Lease | ReadLevel::Local => {
                self.read(node, commands).await
            }
        })
    }

    /// Takes in what became of commands that were begun together; their time is taken once for all,
    /// up to the moment that is given back.
    fn took(
        &mut self,
        begun: Instant,
        results: &[CommandResult],
        times: impl FnOnce(&Operations) -> &Times,
    ) -> Instant {
        let now = Instant::now();
        let count = u64::try_from(results.len()).unwrap_or(u64::MAX);
        let operations = self.client.counters().served(self.protocol);
        times(operations).record_many(now.duration_since(begun), count);
        for result in results {
            self.note(result);
        }
        now
    }

    /// Counts how long it took to give the replies of a turn to the socket, if it wrote.
    pub(crate) fn replied(&mut self) {
        if let Some(answered) = self.answered.take() {
            self.client.counters().replies().record(answered.elapsed());
        }
    }

    /// What the node holds, as fresh as this client's reads have to be.
    ///
    /// # Errors
    /// The leader cannot be asked, or what it named is not applied here in time.
    pub(crate) async fn replica<'a>(&self, node: &'a Node) -> Result<FreshReplica<'a>, Failure> {
        node.replica(self.freshness).await
    }

    /// Has the leader carry out an order, and logs who gave it.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub(crate) async fn order(&self, node: &Node, order: Order) -> Result<(), OrderError> {
        tracing::info!(client = %self.client.address(), user = self.user(), ?order, "an order came");
        node.carry_out(order).await
    }

    /// Makes a join token that counts for so long, and logs for whom; its text.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub(crate) async fn invite(
        &self,
        node: &Node,
        valid_for: Duration,
    ) -> Result<String, OrderError> {
        let client = self.client.address();
        tracing::info!(%client, user = self.user(), ?valid_for, "a join token was asked for");
        node.invite(valid_for).await
    }

    /// Waits until `members` other than the leader hold this client's last write durably; how many do.
    pub(crate) async fn wait(&self, node: &Node, members: usize, timeout: Duration) -> usize {
        node.wait_replicas(self.freshness.written_index, members, timeout).await
    }

    /// Waits until this node's disk holds this client's last write; whether it does.
    pub(crate) async fn wait_here(&self, node: &Node, timeout: Duration) -> bool {
        node.wait_durable(self.freshness.written_index, timeout).await
    }
}

/// The result of the only command.
fn the_one(results: Vec<CommandResult>) -> CommandResult {
    let missing =
        || Failure::Unknown { term: 0, index: 0, reason: "the node gave no result".to_owned() };
    results.into_iter().next().unwrap_or_else(|| Err(missing()))
}
/// How long a join token counts that is asked for in seconds.
///
/// # Errors
/// Not at all, or more than a year.
pub(crate) fn join_token_time(seconds: Option<u64>) -> Result<Duration, Complaint> {
    let seconds = seconds.filter(|seconds| (1..=JOIN_TOKEN_S_MAX).contains(seconds));
    let seconds =
        seconds.ok_or_else(|| Complaint::wrong(format!("seconds are 1 to {JOIN_TOKEN_S_MAX}")))?;
    Ok(Duration::from_secs(seconds))
}
