//! Which blocks of the KV cache are free.

use crate::types::BlockId;

/// Blocks with reference counts. A block is free exactly when nobody refers to it.
///
/// Counts above 1 have no user yet: they are for sequences that share a prefix.
#[derive(Clone, Debug)]
pub struct BlockPool {
    /// The last one is handed out next.
    free: Vec<BlockId>,
    /// `[num_blocks]`
    ref_counts: Vec<u32>,
}

impl BlockPool {
    /// `num_blocks` free blocks; the first ones handed out are 0, 1, 2, ...
    pub fn new(num_blocks: u32) -> Self {
        Self { free: (0..num_blocks).rev().map(BlockId).collect(), ref_counts: vec![0; num_blocks as usize] }
    }

    /// A free block with one reference, or `None` when all are used.
    #[must_use]
    pub fn allocate(&mut self) -> Option<BlockId> {
        let block = self.free.pop()?;
        let count = &mut self.ref_counts[block.0 as usize];
        assert_eq!(*count, 0, "SCH-1: {block:?} was free and referenced");
        *count = 1;
        Some(block)
    }

    /// Gives up one reference; with the last one the block is free again.
    ///
    /// # Panics
    /// When the block is free already.
    pub fn free(&mut self, block: BlockId) {
        let count = &mut self.ref_counts[block.0 as usize];
        assert!(*count > 0, "SCH-1: {block:?} is freed twice");
        *count -= 1;
        if *count == 0 {
            self.free.push(block);
        }
    }

    pub fn ref_count(&self, block: BlockId) -> u32 {
        self.ref_counts[block.0 as usize]
    }

    pub fn num_free(&self) -> u32 {
        self.free.len() as u32
    }

    pub fn num_used(&self) -> u32 {
        self.num_blocks() - self.num_free()
    }

    pub fn num_blocks(&self) -> u32 {
        self.ref_counts.len() as u32
    }

    /// The free blocks, in no order that means anything.
    pub fn free_blocks(&self) -> &[BlockId] {
        &self.free
    }
}
