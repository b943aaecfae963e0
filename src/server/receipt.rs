//! A write that was answered, and its receipt, for the protocols whose clients may ask for one.
//!
//! Called by `ask` and by the handlers of HTTP and gRPC, behind the write; calls the node.

use crate::command::Reply;
use crate::node::Node;
use crate::receipt::{RECEIPT_VERSION_COUNT_MAX, WriteReceipt};

/// What the reply says of its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    index: u64,
    is_repeat: bool,
    versions: Vec<u64>,
}

impl Written {
    /// The write of this reply.
    pub(crate) fn of(reply: &Reply) -> Written {
        let versions = reply.outcomes.iter().take(RECEIPT_VERSION_COUNT_MAX);
        let versions = versions.map(|outcome| outcome.version).collect();
        Written { index: reply.index, is_repeat: reply.is_repeat, versions }
    }

    /// Its receipt: what the leader says of its entry, with what the reply says.
    pub(crate) async fn receipt(&self, node: &Node) -> WriteReceipt {
        let Written { index, is_repeat, versions } = self;
        let of_entry = node.receipt(*index).await;
        WriteReceipt { repeat: *is_repeat, versions: versions.clone(), ..of_entry }
    }
}
