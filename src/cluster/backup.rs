//! Backups of what the cluster holds, taken of this member's copy.
//!
//! Called by `node`; calls `reads` and the replica. Invariants:
//!
//! - I1: every write that was acknowledged before a backup was asked for, by whichever member, is in it.
//! - I2: a member writes one backup at a time.

use std::sync::Arc;

use super::Cluster;
use crate::command::{Failure, Freshness, ReadLevel};
use crate::replica::{BackupOrder, BackupRefusal, BackupStream, backup};

/// Why there is no backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// Not now, or not here.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// Not as it was asked for.
    #[error("{0}")]
    Refused(String),
}

impl Cluster {
    /// Begins a backup. `of` is the cluster that the base was taken of, 0 if there is no base or its
    /// cluster is not known.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub async fn backup(&self, order: BackupOrder, of: u128) -> Result<BackupStream, BackupError> {
        let own = self.cluster_id();
        if ![0, own].contains(&of) {
            return Err(BackupError::Refused(format!(
                "the base is a backup of cluster {of:032x}, and this is cluster {own:032x}: take a \
                 full backup"
            )));
        }
        let busy = |reason: &str| Failure::Busy { reason: reason.to_owned() };
        let permit = Arc::clone(&self.backups).try_acquire_owned(); // I2
        let permit = permit.map_err(|_| busy("this member writes another backup already"))?;
        self.replica(Freshness::of(ReadLevel::Linearizable)).await?; // I1
        let (replica, wal) = (self.consensus.replica().clone(), self.consensus.wal().clone());
        backup::begin(replica, wal, order, permit).map_err(|refusal| match refusal {
            BackupRefusal::CatchingUp => busy(&refusal.to_string()).into(),
            BackupRefusal::Ahead { .. } | BackupRefusal::Forgotten { .. } => {
                BackupError::Refused(refusal.to_string())
            }
        })
    }
}
