//! The blocks of one sequence: position to slot.

use super::BlockPool;
use crate::types::{BlockCopy, BlockId, Slot};

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

    /// Tokens of one block.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Tokens the blocks have room for.
    pub fn capacity(&self) -> u32 {
        self.blocks.len() as u32 * self.block_size
    }

    /// Blocks to allocate before `num_tokens` tokens fit.
    pub fn num_missing(&self, num_tokens: u32) -> u32 {
        num_tokens.div_ceil(self.block_size).saturating_sub(self.blocks.len() as u32)
    }

    /// Whether the token at `position` would be written to a block that others refer to as well.
    pub fn is_shared(&self, position: u32, pool: &BlockPool) -> bool {
        let block = self.blocks.get((position / self.block_size) as usize);
        block.is_some_and(|block| pool.ref_count(*block) > 1)
    }

    /// Exchanges the shared block at `position` for a block of its own. Returns the copy to be made, or `None` when
    /// the pool is empty.
    pub fn unshare(&mut self, position: u32, pool: &mut BlockPool) -> Option<BlockCopy> {
        let to = pool.allocate()?;
        let from = std::mem::replace(&mut self.blocks[(position / self.block_size) as usize], to);
        pool.free(from);
        Some(BlockCopy { from, to })
    }

    /// Allocates until `num_tokens` fit or the pool is empty.
    pub fn grow(&mut self, num_tokens: u32, pool: &mut BlockPool) {
        for _ in 0..self.num_missing(num_tokens) {
            let Some(block) = pool.allocate() else { return };
            self.blocks.push(block);
        }
    }

    /// Takes references to `blocks` behind those it holds.
    pub fn adopt(&mut self, blocks: &[BlockId], pool: &mut BlockPool) {
        for block in blocks {
            pool.share(*block);
        }
        self.blocks.extend_from_slice(blocks);
    }

    /// Puts `block`, to which the caller has a reference, at `index`. The reference to what was there is the caller's.
    pub fn replace(&mut self, index: u32, block: BlockId) {
        self.blocks[index as usize] = block;
    }

    /// Gives all blocks back, the last first; the table is empty and keeps its memory.
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
