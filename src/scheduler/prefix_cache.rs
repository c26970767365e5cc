//! Blocks whose contents are known: found by a hash over all tokens up to their end, and kept when nobody refers to
//! them, until the pool needs them.
//!
//! Only full blocks of computed tokens are known, each contents once, and only below a known block or at the root of a
//! domain. Whoever refers to a block refers to all above it, so a block is never of less use than one below it.

use super::key_index::KeyIndex;
use super::lru_list::LruList;
use crate::types::{BlockId, CacheDomain, TokenId};
use sha2::{Digest, Sha256};

/// The name of a full block: a hash over the key above it (of the domain, for the first) and its tokens, and thereby
/// over domain and all tokens up to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockKey(pub [u8; 32]);

/// From the key above a block and its tokens to its key.
pub type BlockHash = fn(&BlockKey, &[TokenId]) -> BlockKey;

/// [`BlockHash`] with SHA-256. Tokens are hashed as they lie in memory: keys do not leave the process.
pub fn sha256(above: &BlockKey, tokens: &[TokenId]) -> BlockKey {
    let digest = Sha256::new_with_prefix(above.0).chain_update(bytemuck::cast_slice::<TokenId, u8>(tokens));
    BlockKey(digest.finalize().into())
}

impl From<CacheDomain> for BlockKey {
    fn from(domain: CacheDomain) -> Self {
        Self(domain.0)
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    pub key: BlockKey,
    /// The key of `parent`, or of the domain.
    pub above: BlockKey,
    /// The block before it; `None` for the first.
    pub parent: Option<BlockId>,
    /// `[block_size]`
    pub tokens: &'a [TokenId],
}

/// [`Contents`] but for the tokens.
#[derive(Clone, Copy, Debug)]
struct Node {
    key: BlockKey,
    above: BlockKey,
    parent: Option<BlockId>,
}

/// The known blocks. Who refers to them is the pool's to know.
#[derive(Clone, Debug)]
pub struct PrefixCache {
    hash: BlockHash,
    block_size: usize,
    /// `[num_blocks]`
    nodes: Vec<Option<Node>>,
    /// `[num_blocks * block_size]`, of the known blocks.
    tokens: Vec<TokenId>,
    index: KeyIndex,
    /// The known blocks that nobody refers to. A block is before the one above it.
    unused: LruList,
}

impl PrefixCache {
    pub(super) fn new(num_blocks: u32, block_size: u32, hash: BlockHash) -> Self {
        Self {
            hash,
            block_size: block_size as usize,
            nodes: vec![None; num_blocks as usize],
            tokens: vec![0; num_blocks as usize * block_size as usize],
            index: KeyIndex::new(num_blocks),
            unused: LruList::new(num_blocks),
        }
    }

    /// The key of a block with these tokens below `above`.
    pub fn key(&self, above: &BlockKey, tokens: &[TokenId]) -> BlockKey {
        (self.hash)(above, tokens)
    }

    /// The block that holds exactly `wanted`: equal keys alone are not enough.
    pub fn find(&self, wanted: &Contents) -> Option<BlockId> {
        let block = self.find_key(&wanted.key)?;
        let held = self.contents(block)?;
        let same = held.above == wanted.above && held.parent == wanted.parent && held.tokens == wanted.tokens;
        same.then_some(block)
    }

    /// Whether another block, of other contents, has this key.
    pub(super) fn is_taken(&self, key: &BlockKey) -> bool {
        self.find_key(key).is_some()
    }

    /// Remembers what `block` holds.
    pub(super) fn insert(&mut self, block: BlockId, contents: &Contents) {
        assert_eq!(contents.tokens.len(), self.block_size, "SCH-11: {block:?} is not full");
        let node = Node { key: contents.key, above: contents.above, parent: contents.parent };
        let old = self.nodes[block.0 as usize].replace(node);
        assert!(old.is_none(), "SCH-11: {block:?} is known already");
        self.tokens[block.0 as usize * self.block_size..][..self.block_size].copy_from_slice(contents.tokens);
        self.index.insert(&contents.key, block);
    }

    /// What a block holds, if that is known.
    pub fn contents(&self, block: BlockId) -> Option<Contents<'_>> {
        let Node { key, above, parent } = self.nodes[block.0 as usize]?;
        let tokens = &self.tokens[block.0 as usize * self.block_size..][..self.block_size];
        Some(Contents { key, above, parent, tokens })
    }

    /// Whether it is known what `block` holds.
    pub fn knows(&self, block: BlockId) -> bool {
        self.nodes[block.0 as usize].is_some()
    }

    /// Nobody refers to a known block any more. Called for a block before the one above it.
    pub(super) fn retire(&mut self, block: BlockId) {
        self.unused.push(block);
    }

    /// Somebody refers to it again.
    pub(super) fn revive(&mut self, block: BlockId) {
        self.unused.remove(block);
    }

    /// Forgets the block that was not used for longest; nobody needs it as the block above another.
    pub(super) fn evict(&mut self) -> Option<BlockId> {
        let block = self.unused.first()?;
        self.unused.remove(block);
        self.forget(block);
        Some(block)
    }

    /// Forgets the known blocks among `blocks` and all below them. Calls `freed` for those that were unused.
    pub(super) fn forget_with_descendants(&mut self, blocks: &[BlockId], mut freed: impl FnMut(BlockId)) {
        let mut is_doomed: Vec<Option<bool>> = vec![None; self.nodes.len()];
        for block in blocks {
            is_doomed[block.0 as usize] = Some(true);
        }
        let mut path = Vec::new();
        for number in 0..self.nodes.len() as u32 {
            // Up to the first ancestor whose fate is known, or to the root.
            let mut at = Some(BlockId(number));
            while let Some(block) = at.filter(|block| is_doomed[block.0 as usize].is_none()) {
                path.push(block);
                at = self.nodes[block.0 as usize].and_then(|node| node.parent);
            }
            let doomed = at.and_then(|block| is_doomed[block.0 as usize]).unwrap_or(false);
            for block in path.drain(..) {
                is_doomed[block.0 as usize] = Some(doomed);
            }
        }
        for number in (0..self.nodes.len()).filter(|&number| is_doomed[number] == Some(true)) {
            let block = BlockId(number as u32);
            if self.knows(block) {
                self.forget(block);
            }
            if self.unused.contains(block) {
                self.unused.remove(block);
                freed(block);
            }
        }
    }

    /// The known blocks that nobody refers to.
    pub fn num_unused(&self) -> u32 {
        self.unused.len()
    }

    /// They, the next to be forgotten first.
    pub fn unused(&self) -> impl Iterator<Item = BlockId> {
        self.unused.iter()
    }

    /// Known blocks.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn find_key(&self, key: &BlockKey) -> Option<BlockId> {
        self.index.find(key, |block| self.nodes[block.0 as usize].is_some_and(|node| node.key == *key))
    }

    fn forget(&mut self, block: BlockId) {
        let nodes = &self.nodes;
        let key_of = |block: BlockId| nodes[block.0 as usize].expect("a block of the index is known").key;
        self.index.remove(&key_of(block), block, key_of);
        self.nodes[block.0 as usize] = None;
    }
}
