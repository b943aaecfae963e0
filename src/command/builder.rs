//! Lays out commands, operation by operation (`docs/format.md`, "Command").
//!
//! Called by sessions and whoever else makes commands; calls `layout`, which knows the bytes. The commands
//! of a builder may share memory: it takes as much at a time as it is told to expect.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use bytes::{BufMut, BytesMut};

use super::layout::{EMPTY, Fields, HEADER_BYTES, OPERATION_BYTES, VERSION};
use super::{
    COMMAND_BYTES_MAX, Command, KEY_BYTES_MAX, OPERATION_COUNT_MAX, Operation, REQUEST_ID_BYTES_MAX,
};

/// A command that would be beyond its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// One operation too many.
    #[error("a command holds at most {OPERATION_COUNT_MAX} operations")]
    TooManyOperations,
    /// One byte too many.
    #[error("a command holds at most {COMMAND_BYTES_MAX} bytes")]
    TooManyBytes,
    /// A key that is too long.
    #[error("a key holds at most {KEY_BYTES_MAX} bytes")]
    KeyTooLong,
    /// A request id that is empty or too long.
    #[error("a request id has 1 to {REQUEST_ID_BYTES_MAX} bytes")]
    RequestId,
}

/// Most bytes of memory that short commands share.
const CHUNK_BYTES_MAX: usize = 16 << 10;

/// Lays out a command, operation by operation.
#[derive(Debug, Default)]
pub struct CommandBuilder {
    bytes: BytesMut,
    count: u16,
    /// How much memory is taken at a time, if less is needed.
    chunk_bytes: usize,
}

impl CommandBuilder {
    /// Begins a command.
    pub fn new() -> CommandBuilder {
        CommandBuilder::default()
    }

    /// Of this and the next commands about so many bytes are still to come: short ones share memory.
    pub fn expect(&mut self, bytes: usize) {
        self.chunk_bytes = bytes.min(CHUNK_BYTES_MAX);
    }

    /// Adds one operation. After an error the command is as it was before the call.
    ///
    /// # Errors
    /// [`BuildError`] if the command would be beyond its limits.
    pub fn push(&mut self, operation: &Operation<'_>) -> Result<&mut CommandBuilder, BuildError> {
        let Operation { key, action } = operation;
        let fields = Fields::of(action);
        if usize::from(self.count) >= OPERATION_COUNT_MAX {
            return Err(BuildError::TooManyOperations);
        }
        let key_bytes = u16::try_from(key.len()).map_err(|_| BuildError::KeyTooLong)?;
        let value_bytes = field_bytes(fields.value)?;
        let compare_bytes = field_bytes(fields.compare)?;
        let operation_bytes =
            OPERATION_BYTES + key.len() + fields.value.len() + fields.compare.len();
        let bytes_before = self.bytes.len().max(HEADER_BYTES);
        if operation_bytes > COMMAND_BYTES_MAX - bytes_before {
            return Err(BuildError::TooManyBytes);
        }
        if self.bytes.is_empty() {
            let needed = HEADER_BYTES + operation_bytes;
            if self.bytes.capacity() < needed {
                self.bytes.reserve(needed.max(self.chunk_bytes));
            }
            self.bytes.put_slice(&EMPTY);
        }
        self.bytes.reserve(operation_bytes);
        self.bytes.put_slice(&[fields.kind, fields.condition, fields.answer, 0]);
        self.bytes.put_u16_le(key_bytes);
        self.bytes.put_u16_le(0);
        self.bytes.put_u32_le(value_bytes);
        self.bytes.put_u32_le(compare_bytes);
        self.bytes.put_u64_le(fields.argument);
        self.bytes.put_slice(key);
        self.bytes.put_slice(fields.value);
        self.bytes.put_slice(fields.compare);
        self.count += 1;
        Ok(self)
    }

    /// How many operations have been added.
    pub fn operation_count(&self) -> usize {
        usize::from(self.count)
    }

    /// Where the command stands, to take back what is added from here on.
    pub fn mark(&self) -> BuilderMark {
        BuilderMark { bytes: self.bytes.len(), count: self.count }
    }

    /// Takes back what was added since `mark`, which is of this command.
    pub fn rewind(&mut self, mark: BuilderMark) {
        self.bytes.truncate(mark.bytes);
        self.count = mark.count;
    }

    /// Ends the command; the builder is empty again and may begin the next.
    pub fn finish(&mut self) -> Command {
        if self.count == 0 {
            return Command::default();
        }
        let count = std::mem::take(&mut self.count);
        let Ok(bytes) = u32::try_from(self.bytes.len() - HEADER_BYTES) else {
            unreachable!("invariant: a command is shorter than COMMAND_BYTES_MAX");
        };
        let ([c0, c1], [b0, b1, b2, b3]) = (count.to_le_bytes(), bytes.to_le_bytes());
        if let Some(header) = self.bytes.first_chunk_mut::<HEADER_BYTES>() {
            *header = [VERSION, 0, c0, c1, b0, b1, b2, b3];
        }
        Command::laid_out(self.bytes.split().freeze(), usize::from(count))
    }
}

/// How far a command was laid out at some moment.
#[derive(Debug, Clone, Copy)]
pub struct BuilderMark {
    bytes: usize,
    count: u16,
}

/// Length of one part, if a command can hold it at all.
fn field_bytes(part: &[u8]) -> Result<u32, BuildError> {
    if part.len() > COMMAND_BYTES_MAX {
        return Err(BuildError::TooManyBytes);
    }
    u32::try_from(part.len()).map_err(|_| BuildError::TooManyBytes)
}
