//! MULTI, EXEC, DISCARD and WATCH: requests that are queued, and become one command. Pure.
//!
//! Called by the connection alone.
//!
//! Invariants:
//! - I1: three kinds of request abort a transaction: one whose name or number of arguments is
//!   wrong, one that makes the whole command too large, and one that its watch does not allow. Any
//!   other error is the reply to its own request.
//! - I2: no queued request takes effect before EXEC; the queue is bounded.

use super::super::decode::{REQUEST_BYTES_MAX, Request};
use super::super::draft::Draft;
use super::super::encode::code_and_text;
use super::super::form::{Form, Item, Kind, Transaction};
use super::super::table::{Handler, Spec};
use super::watch::{WIDER, Watch};
use super::{Connection, Effect, Step};
use crate::command::{Command, OPERATION_COUNT_MAX};
use crate::server::access::ClientRole;
use crate::server::complaint::Complaint;
use crate::server::keys::Keys;
use crate::server::value::Value;

/// A transaction that is being queued.
#[derive(Debug)]
pub(super) struct Queue {
    draft: Draft,
    items: Vec<Item>,
    /// Bytes of what is kept beside the command (I2).
    kept_bytes: usize,
    aborted: bool,
    /// The role that the request needs which needs most.
    needs: Option<ClientRole>,
}

impl Queue {
    /// What a request comes to, after its operations were added.
    ///
    /// # Errors
    /// What aborts the transaction (I1).
    fn item(&mut self, spec: &Spec, request: &Request, keys: &Keys) -> Result<Item, Complaint> {
        let (item, kept_bytes) = match spec.handler {
            Handler::Data(add) => {
                let arguments = request.arguments();
                let mark = self.draft.mark();
                match self.draft.add(add, arguments.get(1..).unwrap_or_default(), keys) {
                    Ok(form) => (Item::Data(form), 0),
                    Err(complaint) if self.draft.is_refused() => return Err(complaint),
                    Err(complaint) => {
                        self.draft.rewind(mark);
                        let kept_bytes = code_and_text(&complaint).len();
                        (Item::Refused(complaint), kept_bytes)
                    }
                }
            }
            Handler::Other(_) | Handler::AtOnce(_) => {
                (Item::Request(Box::new(request.detached())), request.byte_count())
            }
        };
        self.kept_bytes += kept_bytes;
        if self.kept_bytes > REQUEST_BYTES_MAX {
            let text = format!("a transaction takes at most {REQUEST_BYTES_MAX} bytes");
            return Err(Complaint::too_large(text));
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
    pub(in super::super) fn begin(&mut self) -> Step {
        if self.queue.is_some() {
            let complaint = Complaint::wrong("MULTI calls can not be nested");
            return Step::Answer(Value::Complaint(complaint)); // and the transaction goes on
        }
        let draft = Draft::new(self.watch.condition().cloned());
        let (items, needs) = (Vec::new(), None);
        self.queue = Some(Queue { draft, items, kept_bytes: 0, aborted: false, needs });
        Step::Answer(Value::OK)
    }

    /// Queues a request of a transaction.
    pub(super) fn enqueue(
        &mut self,
        queue: Queue,
        spec: &Spec,
        request: &Request,
    ) -> Result<Step, Complaint> {
        let queue = self.queue.insert(queue);
        queue.needs = queue.needs.max(spec.kind.needs());
        if !queue.aborted {
            if queue.items.len() >= OPERATION_COUNT_MAX {
                let text = format!("a transaction takes at most {OPERATION_COUNT_MAX} requests");
                return Err(Complaint::too_large(text));
            }
            let item = queue.item(spec, request, &self.keys)?;
            queue.items.push(item);
        }
        Ok(Step::Answer(Value::Status("QUEUED")))
    }

    /// `EXEC`
    pub(in super::super) fn execute(&mut self) -> Result<Step, Complaint> {
        let Some(Queue { draft, items, aborted, needs, .. }) = self.queue.take() else {
            return Err(Complaint::wrong("EXEC without MULTI"));
        };
        let watch = std::mem::take(&mut self.watch);
        if aborted {
            let text = "Transaction discarded because of previous errors.";
            return Err(Complaint::aborted(text));
        }
        if needs > self.requester.granted() {
            return Err(self.requester.denied("exec")); // the token counts no longer, or another one does
        }
        match watch {
            Watch::Nothing | Watch::Held(_) => {}
            Watch::Changed(_) => return Ok(Step::Answer(Value::NoArray)),
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
    pub(in super::super) fn discard(&mut self) -> Result<Step, Complaint> {
        match self.queue.take() {
            Some(_) => {
                self.watch = Watch::Nothing;
                Ok(Step::Answer(Value::OK))
            }
            None => Err(Complaint::wrong("DISCARD without MULTI")),
        }
    }

    /// `WATCH key`
    pub(in super::super) fn watch(&mut self, names: &[&[u8]]) -> Result<Step, Complaint> {
        if self.queue.is_some() {
            let complaint = Complaint::wrong("WATCH inside MULTI is not allowed");
            return Ok(Step::Answer(Value::Complaint(complaint))); // and the transaction goes on
        }
        let [key] = names else { return Err(Complaint::wrong(WIDER)) };
        let key = self.keys.key(key)?;
        let command = Command::get(&key)?;
        if !self.watch.ask(&key)? {
            return Ok(Step::Answer(Value::OK));
        }
        self.effect = Effect::Watch;
        Ok(Step::Execute { command, form: Form::OK, kind: Kind::Read })
    }

    /// `UNWATCH`
    pub(in super::super) fn unwatch(&mut self) {
        self.watch = Watch::Nothing;
    }
}

fn without_its_watch(reason: &str) -> Complaint {
    Complaint::aborted(format!("Transaction discarded because WATCH failed: {reason}"))
}
