//! Lets tests read and damage a simulated disk behind the back of the code that uses it.

use std::io;
use std::path::{Path, PathBuf};

use super::inode::{Inode, index_of, replace_common};
use super::state::State;
use crate::{Error, Result};

impl State {
    pub(super) fn flip_bit(&mut self, path: &Path, offset: u64, bit: u8) -> Result<()> {
        assert!(bit < 8, "a byte has no bit {bit}");
        let inode = self.inode_at(path)?;
        let past_end =
            || Error::io("flip a bit", path, offset, io::ErrorKind::UnexpectedEof.into());
        let byte = inode.current.get_mut(index_of(offset)).ok_or_else(past_end)?;
        *byte ^= 1 << bit;
        let flipped = [*byte];
        replace_common(&mut inode.durable, 0, &flipped, offset);
        for pending in &mut inode.pending {
            pending.give_way(&flipped, offset);
        }
        Ok(())
    }

    pub(super) fn truncate_file(&mut self, path: &Path, bytes: u64) -> Result<()> {
        let inode = self.inode_at(path)?;
        let mut content = std::mem::take(&mut inode.current);
        content.truncate(index_of(bytes));
        *inode = Inode::holding(content);
        Ok(())
    }

    pub(super) fn read_file(&mut self, path: &Path) -> Result<Vec<u8>> {
        Ok(self.inode_at(path)?.current.clone())
    }

    pub(super) fn write_file(&mut self, path: &Path, bytes: &[u8]) {
        let id = self.new_inode(Inode::holding(bytes.to_vec()));
        self.names.set_durably(path, id);
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.names.current.files.keys().cloned().collect()
    }
}
