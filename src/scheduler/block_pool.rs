//! Which blocks of the KV cache are free, which hold a known prefix, and how many refer to each.

use super::prefix_cache::{self, BlockHash, Contents, PrefixCache};
use crate::types::BlockId;

/// Blocks with reference counts. A block that nobody refers to is *cached* if its contents are known, else *free*.
#[derive(Clone, Debug)]
pub struct BlockPool {
    /// The last one is handed out next.
    free: Vec<BlockId>,
    /// `[num_blocks]`
    ref_counts: Vec<u32>,
    cache: PrefixCache,
    num_evicted: u64,
}

impl BlockPool {
    /// `num_blocks` free blocks of `block_size` tokens; the first ones handed out are 0, 1, 2, ...
    pub fn new(num_blocks: u32, block_size: u32) -> Self {
        Self::with_hash(num_blocks, block_size, prefix_cache::sha256)
    }

    /// [`BlockPool::new`] with another hash: for tests that want collisions.
    pub fn with_hash(num_blocks: u32, block_size: u32, hash: BlockHash) -> Self {
        Self {
            free: (0..num_blocks).rev().map(BlockId).collect(),
            ref_counts: vec![0; num_blocks as usize],
            cache: PrefixCache::new(num_blocks, block_size, hash),
            num_evicted: 0,
        }
    }

    /// A block with one reference: a free one, else the cached one that was not used for longest, which is then no
    /// longer known. `None` when all are referenced.
    #[must_use]
    pub fn allocate(&mut self) -> Option<BlockId> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => {
                let block = self.cache.evict()?;
                self.num_evicted += 1;
                block
            }
        };
        let count = &mut self.ref_counts[block.0 as usize];
        assert_eq!(*count, 0, "SCH-1: {block:?} was free and referenced");
        *count = 1;
        Some(block)
    }

    /// One more reference to a block that is referenced or cached.
    ///
    /// # Panics
    /// When the block is free.
    pub fn share(&mut self, block: BlockId) {
        let count = &mut self.ref_counts[block.0 as usize];
        if *count == 0 {
            self.cache.revive(block);
        }
        *count += 1;
    }

    /// Gives up one reference; with the last one the block is cached or free. Blocks of a sequence are given up from
    /// the last to the first, so that a block is forgotten before the one above it.
    ///
    /// # Panics
    /// When nobody refers to the block.
    pub fn free(&mut self, block: BlockId) {
        let count = &mut self.ref_counts[block.0 as usize];
        assert!(*count > 0, "SCH-1: {block:?} is freed twice");
        *count -= 1;
        if *count > 0 {
            return;
        }
        if self.cache.knows(block) {
            self.cache.retire(block);
        } else {
            self.free.push(block);
        }
    }

    /// Makes the contents of `block`, to which the caller holds the only reference, known. Where another block of
    /// these contents is known already, the reference is exchanged for one to that. Returns the block to refer to.
    ///
    /// Nothing becomes known below a block that is not, or under a key that other contents have.
    pub fn learn(&mut self, block: BlockId, contents: &Contents) -> BlockId {
        assert_eq!(self.ref_count(block), 1, "SCH-11: {block:?} was written and is shared");
        if contents.parent.is_some_and(|parent| !self.cache.knows(parent)) {
            return block;
        }
        if let Some(known) = self.cache.find(contents) {
            self.share(known);
            self.free(block);
            return known;
        }
        if !self.cache.is_taken(&contents.key) {
            self.cache.insert(block, contents);
        }
        block
    }

    /// Forgets what `blocks` hold, and all blocks below them: their contents are not to be trusted. References stay.
    pub fn distrust(&mut self, blocks: &[BlockId]) {
        let free = &mut self.free;
        self.cache.forget_with_descendants(blocks, |block| free.push(block));
    }

    pub fn ref_count(&self, block: BlockId) -> u32 {
        self.ref_counts[block.0 as usize]
    }

    /// Blocks that [`BlockPool::allocate`] can still hand out: free and cached ones.
    pub fn num_available(&self) -> u32 {
        self.num_free() + self.num_cached()
    }

    /// Blocks that hold nothing.
    pub fn num_free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Blocks that hold a known prefix and are not referenced.
    pub fn num_cached(&self) -> u32 {
        self.cache.num_unused()
    }

    /// Blocks that are referenced.
    pub fn num_used(&self) -> u32 {
        self.num_blocks() - self.num_available()
    }

    pub fn num_blocks(&self) -> u32 {
        self.ref_counts.len() as u32
    }

    /// Cached blocks that were handed out for other contents, so far.
    pub fn num_evicted(&self) -> u64 {
        self.num_evicted
    }

    /// The free blocks, in no order that means anything.
    pub fn free_blocks(&self) -> &[BlockId] {
        &self.free
    }

    pub fn cache(&self) -> &PrefixCache {
        &self.cache
    }
}
