//! The blocks of one sequence: position to slot.

use super::BlockPool;
use crate::types::{BlockId, Slot};

/// The blocks a sequence holds, in position order: position `p` is in block `p / block_size`, at `p % block_size`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
    block_size: u32,
}

impl BlockTable {
    pub fn new(block_size: u32) -> Self {
        Self { blocks: Vec::new(), block_size }
    }

    /// Where the token at `position` lives.
    ///
    /// # Panics
    /// When the table does not reach that far.
    pub fn slot(&self, position: u32) -> Slot {
        let block = self.blocks[(position / self.block_size) as usize];
        Slot(block.0 * self.block_size + position % self.block_size)
    }

    /// Tokens the blocks have room for.
    pub fn capacity(&self) -> u32 {
        self.blocks.len() as u32 * self.block_size
    }

    /// Blocks to allocate before `num_tokens` tokens fit.
    pub fn num_missing(&self, num_tokens: u32) -> u32 {
        num_tokens.div_ceil(self.block_size).saturating_sub(self.blocks.len() as u32)
    }

    /// Allocates until `num_tokens` fit or the pool is empty.
    pub fn grow(&mut self, num_tokens: u32, pool: &mut BlockPool) {
        for _ in 0..self.num_missing(num_tokens) {
            let Some(block) = pool.allocate() else { return };
            self.blocks.push(block);
        }
    }

    /// Gives all blocks back; the table is empty and keeps its memory.
    pub fn release(&mut self, pool: &mut BlockPool) {
        for block in self.blocks.drain(..).rev() {
            pool.free(block);
        }
    }

    /// Makes room in the list itself, so that growing to `num_tokens` tokens allocates no memory.
    pub fn reserve(&mut self, num_tokens: u32) {
        let num_blocks = num_tokens.div_ceil(self.block_size) as usize;
        self.blocks.reserve_exact(num_blocks.saturating_sub(self.blocks.len()));
    }

    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }
}
