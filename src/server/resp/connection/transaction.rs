//! MULTI, EXEC, DISCARD and WATCH: requests that are queued, and become one command. Pure.
//!
//! Called by the connection alone.
//!
//! Invariants:
//! - I1: what aborts a transaction is a request whose name or number of arguments is wrong, one that
//!   the command as a whole has no room for, and one that its watch does not allow. Any other error
//!   is the reply to its own request.
//! - I2: nothing that is queued takes effect before EXEC; what is queued is bounded.

use bytes::{Bytes, BytesMut};

use super::super::data::{self, Draft};
use super::super::decode::{REQUEST_BYTES_MAX, Request};
use super::super::encode::{Encoder, Version};
use super::super::refused::Complaint;
use super::super::shape::{Item, Kind, Shape, Transaction};
use super::super::table::Verb;
use super::watch::{WIDER, Watch};
use super::{Connection, Effect, OK, QUEUED, Step};
use crate::command::{Command, OPERATION_COUNT_MAX};
use crate::server::keys::Keys;

/// A transaction that is being queued.
#[derive(Debug)]
pub(super) struct Queue {
    draft: Draft,
    items: Vec<Item>,
    /// Bytes of what is kept beside the command (I2).
    kept_bytes: usize,
    aborted: bool,
}

impl Queue {
    /// What a request comes to, after its operations were added.
    ///
    /// # Errors
    /// What aborts the transaction (I1).
    fn item(&mut self, verb: Verb, request: &Request, keys: &Keys) -> Result<Item, Complaint> {
        let arguments = request.arguments();
        let rest = arguments.get(1..).unwrap_or_default();
        let mark = self.draft.mark();
        let (item, kept_bytes) = match data::add(&mut self.draft, verb, rest, keys) {
            Ok(Some(shape)) => (Item::Data(shape), 0),
            Ok(None) => (Item::Request(Box::new(request.detached())), request.byte_count()),
            Err(complaint) if self.draft.is_refused() => return Err(complaint),
            Err(Complaint(text)) => {
                self.draft.rewind(mark);
                let mut out = BytesMut::new();
                Encoder::new(&mut out, Version::default()).error(&text);
                let kept_bytes = out.len();
                (Item::Answer(out.freeze()), kept_bytes)
            }
        };
        self.kept_bytes += kept_bytes;
        if self.kept_bytes > REQUEST_BYTES_MAX {
            let text = format!("ERR a transaction takes at most {REQUEST_BYTES_MAX} bytes");
            return Err(Complaint::new(text));
        }
        Ok(item)
    }

    /// How many requests wait.
    pub(super) fn request_count(&self) -> usize {
        self.items.len()
    }

    /// Gives the transaction up; EXEC will say so.
    pub(super) fn abort(&mut self) {
        self.aborted = true;
    }
}

impl Connection {
    /// `MULTI`
    pub(super) fn begin(&mut self) -> Step {
        if self.queue.is_some() {
            return self.answer(|to| to.error("ERR MULTI calls can not be nested"));
        }
        let draft = Draft::new(self.watch.condition().cloned());
        self.queue = Some(Queue { draft, items: Vec::new(), kept_bytes: 0, aborted: false });
        Step::Answer(Bytes::from_static(OK))
    }

    /// Queues a request of a transaction.
    pub(super) fn enqueue(
        &mut self,
        queue: Queue,
        verb: Verb,
        request: &Request,
    ) -> Result<Step, Complaint> {
        let queue = self.queue.insert(queue);
        if !queue.aborted {
            if queue.items.len() >= OPERATION_COUNT_MAX {
                let text =
                    format!("ERR a transaction takes at most {OPERATION_COUNT_MAX} requests");
                return Err(Complaint::new(text));
            }
            let item = queue.item(verb, request, &self.keys)?;
            queue.items.push(item);
        }
        Ok(Step::Answer(Bytes::from_static(QUEUED)))
    }

    /// `EXEC`
    pub(super) fn execute(&mut self) -> Result<Step, Complaint> {
        let Some(Queue { draft, items, aborted, .. }) = self.queue.take() else {
            return Err(Complaint::new("ERR EXEC without MULTI"));
        };
        let watch = std::mem::take(&mut self.watch);
        if aborted {
            let text = "EXECABORT Transaction discarded because of previous errors.";
            return Err(Complaint::new(text));
        }
        match watch {
            Watch::Nothing | Watch::Held(_) => {}
            Watch::Changed(_) => return Ok(self.answer(|to| to.null_array())),
            Watch::Asked(_) => return Err(without_its_watch("no answer came")),
            Watch::Failed { reason, .. } => return Err(without_its_watch(&reason)),
        }
        self.reply_bytes_max = draft.reply_bytes_max();
        let kind = draft.kind();
        let (command, watch) = draft.finish_watched(&self.keys)?;
        let kind = Some(kind).filter(|_| command.operation_count() > 0);
        let transaction = Box::new(Transaction { items, watch });
        Ok(Step::Transaction { command, kind, transaction })
    }

    /// `DISCARD`
    pub(super) fn discard(&mut self) -> Result<Step, Complaint> {
        match self.queue.take() {
            Some(_) => {
                self.watch = Watch::Nothing;
                Ok(Step::Answer(Bytes::from_static(OK)))
            }
            None => Err(Complaint::new("ERR DISCARD without MULTI")),
        }
    }

    /// `WATCH key`
    pub(super) fn watch(&mut self, names: &[&[u8]]) -> Result<Step, Complaint> {
        if self.queue.is_some() {
            return Ok(self.answer(|to| to.error("ERR WATCH inside MULTI is not allowed")));
        }
        let [key] = names else { return Err(Complaint::new(WIDER)) };
        let key = self.keys.key(key)?;
        let command = Command::get(&key)?;
        if !self.watch.ask(&key)? {
            return Ok(Step::Answer(Bytes::from_static(OK)));
        }
        self.effect = Effect::Watch;
        Ok(Step::Execute { command, shape: Shape::Watch, kind: Kind::Read })
    }
}

fn without_its_watch(reason: &str) -> Complaint {
    let text = format!("EXECABORT Transaction discarded because WATCH failed: {reason}");
    Complaint::new(text)
}
