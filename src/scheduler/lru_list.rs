//! Blocks in the order of their last use, as a doubly linked list over their numbers: every operation takes constant
//! time and none allocates.

use crate::types::BlockId;

/// Blocks, the one to go first at the front.
#[derive(Clone, Debug)]
pub(super) struct LruList {
    /// `[num_blocks + 1]`, the last entry standing for both ends. A block that is not in the list points to itself.
    next: Vec<u32>,
    previous: Vec<u32>,
    len: u32,
}

impl LruList {
    /// An empty list for blocks `0 .. num_blocks`.
    pub fn new(num_blocks: u32) -> Self {
        let itself: Vec<u32> = (0..=num_blocks).collect();
        Self { next: itself.clone(), previous: itself, len: 0 }
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    /// Adds a block as the last to go.
    pub fn push(&mut self, block: BlockId) {
        assert!(!self.contains(block), "SCH-12: {block:?} is in the list already");
        let (end, last) = (self.end(), self.previous[self.end() as usize]);
        self.link(last, block.0);
        self.link(block.0, end);
        self.len += 1;
    }

    /// Takes a block out, wherever it is.
    pub fn remove(&mut self, block: BlockId) {
        assert!(self.contains(block), "SCH-12: {block:?} is not in the list");
        self.link(self.previous[block.0 as usize], self.next[block.0 as usize]);
        (self.next[block.0 as usize], self.previous[block.0 as usize]) = (block.0, block.0);
        self.len -= 1;
    }

    /// The first to go.
    pub fn first(&self) -> Option<BlockId> {
        self.iter().next()
    }

    pub fn contains(&self, block: BlockId) -> bool {
        self.next[block.0 as usize] != block.0
    }

    /// From the first to go to the last.
    pub fn iter(&self) -> impl Iterator<Item = BlockId> {
        let mut at = self.next[self.end() as usize];
        std::iter::from_fn(move || {
            let block = at;
            at = self.next[at as usize];
            (block != self.end()).then_some(BlockId(block))
        })
    }

    fn end(&self) -> u32 {
        self.next.len() as u32 - 1
    }

    fn link(&mut self, first: u32, second: u32) {
        self.next[first as usize] = second;
        self.previous[second as usize] = first;
    }
}
