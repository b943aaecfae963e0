//! The reasons why a node does not start, each with what its operator can do.

use std::io;

use crate::cluster::JoinError;
use crate::config::ConfigError;
use crate::fault::{self, EXIT_DATA_LOST, EXIT_FAILURE};
use crate::machine::JournalError;
use crate::oplog::OpLogError;
use crate::raft;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file or directory of the node.
    #[error("{}; {}", fault::chain(.0), way_out(.0))]
    Storage(diskstore_storage::Error),
    /// The join token that was to be presented.
    #[error("{}", fault::chain(.0))]
    JoinToken(#[from] ConfigError),
    /// A port cannot be listened on.
    #[error("cannot listen on {address} (-{flag}); {}", way_to_listen(source))]
    Listen {
        /// The flag that named the address.
        flag: &'static str,
        /// The address.
        address: String,
        /// The operating system's word.
        source: io::Error,
    },
    /// The directory is another node's, or of another geometry.
    #[error(
        "{directory} was made for {actual}, but {flag} asks for {asked}; start it as before, or \
         give another -data directory"
    )]
    OtherIdentity {
        /// The directory.
        directory: String,
        /// The flag that contradicts it.
        flag: &'static str,
        /// What was asked for.
        asked: String,
        /// What the directory says.
        actual: String,
    },
    /// The directory is of another program.
    #[error(
        "{directory} was made for {actual}, and {program} serves {machine}; start that program, or \
         give another -data directory"
    )]
    OtherMachine {
        /// The directory.
        directory: String,
        /// The program that was started.
        program: &'static str,
        /// What it serves.
        machine: &'static str,
        /// What the directory is for.
        actual: &'static str,
    },
    /// The cluster is of another program.
    #[error(
        "the cluster at -join has {actual}, and {program} serves {machine}; start that program, or \
         name a member of another cluster"
    )]
    OtherCluster {
        /// The program that was started.
        program: &'static str,
        /// What it serves.
        machine: &'static str,
        /// What the cluster has.
        actual: &'static str,
    },
    /// The geometry that was asked for is not the cluster's.
    #[error(
        "{flag} {asked} was asked for, but the cluster has {actual}; leave the flag out to join"
    )]
    OtherGeometry {
        /// The flag.
        flag: &'static str,
        /// What was asked for.
        asked: u64,
        /// What the cluster has.
        actual: u64,
    },
    /// Data without an identity.
    #[error(
        "{directory} holds {found} but no IDENTITY: it is no whole node's directory; \
             restore it, or start with an empty directory and -join"
    )]
    NoIdentity {
        /// The directory.
        directory: String,
        /// The file that was found.
        found: String,
    },
    /// A restore did not come to its end.
    #[error(
        "{directory}: a restore was not finished here; repeat it (diskstore restore), or delete the \
         directory"
    )]
    Restoring {
        /// The directory.
        directory: String,
    },
    /// The node never finished joining and was started without `-join`.
    #[error(
        "{directory} belongs to a node that has not finished joining; start it with -join ADDRESS, \
         or delete the directory to begin anew"
    )]
    NotJoined {
        /// The directory.
        directory: String,
    },
    /// A member of a cluster knows this node.
    #[error(
        "a member of cluster {cluster:032x} knows this address as one of its own, so this node was \
         wiped; start it with -join ADDRESS, naming a running member"
    )]
    Wiped {
        /// The cluster that it belonged to.
        cluster: u128,
    },
    /// The node has promised to found a cluster with the members of a file.
    #[error(
        "{directory} belongs to a node that was founding a cluster with the members of a file; start \
         it with -cluster FILE, or delete the directory to begin anew"
    )]
    Pledged {
        /// The directory.
        directory: String,
    },
    /// The file is another one than the node has begun to found a cluster with.
    #[error(
        "{directory} belongs to a node that may have founded a cluster already, with a file that \
         lists other members, or with another -slots or size of values; start it with that file; if \
         no member of it has ever served, delete the directory to begin anew"
    )]
    OtherPlan {
        /// The directory.
        directory: String,
    },
    /// Joining failed.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The log is not the one that belongs to the slots.
    #[error(
        "the log in {directory} begins behind {purged}, but the slots are at {checkpoint}: they do \
         not belong together; restore this member from the others"
    )]
    Contradiction {
        /// The directory.
        directory: String,
        /// Purge point of the log.
        purged: String,
        /// Checkpoint of the slots.
        checkpoint: String,
    },
    /// A member's files are gone: it may have voted and acknowledged what is in them.
    #[error(
        "{directory} is a member's, but its {what} is gone: this disk lost acknowledged data; {}",
        fault::REPLACE_WITH_CARE
    )]
    DataLost {
        /// The directory.
        directory: String,
        /// What is gone.
        what: &'static str,
    },
    /// The member of this directory runs elsewhere.
    #[error("{0}")]
    Copy(String),
    /// The node cannot go on before it has started.
    #[error("{}", .0.reason)]
    Fault(fault::Fault),
    /// The leader took the node in and cannot reach it.
    #[error(
        "the cluster took this node in, but its leader has not reached it at {address} within a \
         minute; check -raft and -advertise"
    )]
    Unreachable {
        /// The address that was told to the cluster.
        address: String,
    },
    /// The application log of `-logfolder`.
    #[error("the application log of -logfolder cannot be opened")]
    OpLog(#[from] OpLogError),
    /// Consensus did not start.
    #[error(transparent)]
    Consensus(#[from] raft::StartError),
    /// The cluster could not be founded.
    #[error("the cluster could not be founded: {0}")]
    Found(crate::command::Failure),
    /// A background task failed.
    #[error("a background task failed")]
    Task(#[from] tokio::task::JoinError),
    /// No random number for an id.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

/// What to do where an address cannot be listened on.
fn way_to_listen(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: give one that it has",
        io::ErrorKind::PermissionDenied => {
            "choose a port above 1023, or start it with the right to"
        }
        _ => "choose another port or stop the program that has it",
    }
}

impl From<JournalError> for StartError {
    fn from(error: JournalError) -> StartError {
        match error {
            JournalError::Log(error) => StartError::OpLog(error),
            JournalError::Storage(error) => StartError::Storage(error),
        }
    }
}

impl From<diskstore_storage::Error> for StartError {
    fn from(error: diskstore_storage::Error) -> StartError {
        StartError::Storage(error)
    }
}

/// What a user can do about a file or directory that keeps a node from starting.
fn way_out(error: &diskstore_storage::Error) -> &'static str {
    use diskstore_storage::Error;
    match error {
        Error::NoSpace { .. } => {
            "make room, ask for fewer -slots, or give a -data directory on a larger disk"
        }
        Error::Locked { .. } => "stop that process, or give another -data directory",
        Error::Corrupt { .. } | Error::Missing { .. } => fault::REPLACE_WITH_CARE,
        Error::UnknownVersion { .. } => "start the version of diskstore that wrote it",
        Error::CorruptLog { .. } => "nothing was changed",
        _ => "mend that, or give another -data directory",
    }
}

impl StartError {
    /// The exit code of a process that did not start.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::DataLost { .. } => EXIT_DATA_LOST,
            StartError::Fault(fault) => fault.exit_code,
            _ => EXIT_FAILURE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_another_machine_is_not_called_a_port_that_is_taken() {
        let said = |kind: io::ErrorKind| {
            let address = "10.0.0.1:11000".to_owned();
            StartError::Listen { flag: "port", address, source: kind.into() }.to_string()
        };
        assert!(said(io::ErrorKind::AddrNotAvailable).contains("no such address"));
        assert!(said(io::ErrorKind::AddrInUse).contains("choose another port"));
        assert!(said(io::ErrorKind::PermissionDenied).contains("above 1023"));
    }
}
