//! From the key of a block to the block: a hash table of fixed size, so that nothing is allocated in a step.
//!
//! Open addressing with linear probing. Keys are digests, so their first bytes are the place to look; the table is at
//! most half full. The keys themselves are kept by the caller, once for each block.

use super::prefix_cache::BlockKey;
use crate::types::BlockId;

#[derive(Clone, Debug)]
pub(super) struct KeyIndex {
    /// Empty or a block; the length is a power of two.
    places: Vec<Option<BlockId>>,
}

impl KeyIndex {
    /// Room for `num_blocks` keys.
    pub fn new(num_blocks: u32) -> Self {
        let len = (num_blocks as usize * 2).next_power_of_two();
        Self { places: vec![None; len] }
    }

    /// The block for which `is_it` holds among those whose key may be `key`.
    pub fn find(&self, key: &BlockKey, mut is_it: impl FnMut(BlockId) -> bool) -> Option<BlockId> {
        let mut place = self.home(key);
        while let Some(block) = self.places[place] {
            if is_it(block) {
                return Some(block);
            }
            place = self.after(place);
        }
        None
    }

    /// Adds a block that is not in the table.
    pub fn insert(&mut self, key: &BlockKey, block: BlockId) {
        let mut place = self.home(key);
        while self.places[place].is_some() {
            place = self.after(place);
        }
        self.places[place] = Some(block);
    }

    /// Takes `block` out; `key_of` tells the key of each block in the table.
    ///
    /// The blocks behind it move up where their search would otherwise end at the gap (Knuth, TAOCP 3, 6.4,
    /// algorithm R).
    pub fn remove(&mut self, key: &BlockKey, block: BlockId, key_of: impl Fn(BlockId) -> BlockKey) {
        let mut gap = self.home(key);
        while self.places[gap] != Some(block) {
            assert!(self.places[gap].is_some(), "SCH-11: {block:?} is not in the index");
            gap = self.after(gap);
        }
        let mut place = gap;
        loop {
            place = self.after(place);
            let Some(moved) = self.places[place] else { break };
            let home = self.home(&key_of(moved));
            let mask = self.places.len() - 1;
            // How far it lies behind its home, and behind the gap: it may move if the gap is on its way.
            if place.wrapping_sub(home) & mask >= place.wrapping_sub(gap) & mask {
                self.places[gap] = Some(moved);
                gap = place;
            }
        }
        self.places[gap] = None;
    }

    /// Blocks in the table.
    pub fn len(&self) -> usize {
        self.places.iter().flatten().count()
    }

    fn home(&self, key: &BlockKey) -> usize {
        let [a, b, c, d, e, f, g, h, ..] = key.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h]) as usize & (self.places.len() - 1)
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.places.len() - 1)
    }
}
