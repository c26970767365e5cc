//! The block pool and its prefix cache against a model of them: plain lists, in which everything is searched for.
//!
//! Half of the cases hash a block to one of 3 keys, so that most different blocks collide.

use llorch_cpud::scheduler::BlockPool;
use llorch_cpud::scheduler::prefix_cache::{BlockHash, BlockKey, Contents, sha256};
use llorch_cpud::types::{BlockId, CacheDomain, TokenId};
use proptest::prelude::*;

/// A block's tokens. Two of them, and short paths, so that prefixes are often equal.
type Tokens = [TokenId; 2];

#[derive(Clone, Debug)]
enum Op {
    /// A holder begins with `path`: the cached part is taken, the rest allocated and learned. Domain 2 uses no cache.
    Start {
        domain: u8,
        path: Vec<Tokens>,
    },
    /// A holder computes a block more.
    Extend {
        holder: usize,
        tokens: Tokens,
    },
    /// A holder takes a block that it has not filled.
    Grow {
        holder: usize,
    },
    Fork {
        holder: usize,
    },
    Release {
        holder: usize,
    },
    Distrust {
        holder: usize,
    },
}

fn tokens() -> impl Strategy<Value = Tokens> {
    prop_oneof![Just([1, 2]), Just([3, 4])]
}

fn op() -> impl Strategy<Value = Op> {
    let holder = 0..8usize;
    prop_oneof![
        4 => (0..3u8, prop::collection::vec(tokens(), 1..5)).prop_map(|(domain, path)| Op::Start { domain, path }),
        3 => (holder.clone(), tokens()).prop_map(|(holder, tokens)| Op::Extend { holder, tokens }),
        1 => holder.clone().prop_map(|holder| Op::Grow { holder }),
        1 => holder.clone().prop_map(|holder| Op::Fork { holder }),
        4 => holder.clone().prop_map(|holder| Op::Release { holder }),
        1 => holder.prop_map(|holder| Op::Distrust { holder }),
    ]
}

/// A hash with 3 values.
fn weak(above: &BlockKey, tokens: &[TokenId]) -> BlockKey {
    let mut key = [0; 32];
    key[0] = (sha256(above, tokens).0[0]) % 3;
    BlockKey(key)
}

/// What the model knows of a block.
#[derive(Clone, Debug)]
struct Known {
    block: BlockId,
    domain: u8,
    path: Vec<Tokens>,
    key: BlockKey,
    /// When the last reference was given up.
    unused_since: u64,
}

#[derive(Clone, Debug)]
struct Holder {
    domain: u8,
    path: Vec<Tokens>,
    blocks: Vec<BlockId>,
}

struct Machine {
    pool: BlockPool,
    hash: BlockHash,
    known: Vec<Known>,
    holders: Vec<Holder>,
    num_blocks: usize,
    clock: u64,
    num_collisions: usize,
}

impl Machine {
    fn new(num_blocks: u32, hash: BlockHash) -> Self {
        let pool = BlockPool::with_hash(num_blocks, 2, hash);
        let (known, holders) = (Vec::new(), Vec::new());
        Self { pool, hash, known, holders, num_blocks: num_blocks as usize, clock: 0, num_collisions: 0 }
    }

    fn references(&self, block: BlockId) -> usize {
        self.holders.iter().flat_map(|holder| &holder.blocks).filter(|held| **held == block).count()
    }

    fn find(&self, domain: u8, path: &[Tokens]) -> Option<&Known> {
        self.known.iter().find(|known| known.domain == domain && known.path == path)
    }

    /// The keys of the blocks of a path, the domain's first.
    fn keys(&self, domain: u8, path: &[Tokens]) -> Vec<BlockKey> {
        let mut keys = vec![BlockKey([domain; 32])];
        for tokens in path {
            keys.push((self.hash)(keys.last().unwrap(), tokens));
        }
        keys
    }

    /// Asks the pool for the block of `path`.
    fn ask(&self, domain: u8, path: &[Tokens], parent: Option<BlockId>) -> Option<BlockId> {
        let keys = self.keys(domain, path);
        let (key, above) = (keys[path.len()], keys[path.len() - 1]);
        self.pool.cache().find(&Contents { key, above, parent, tokens: path.last().unwrap() })
    }

    /// What an allocation is to give: any block that is neither referenced nor known, or else the leaf that was not
    /// used for longest.
    fn allocate(&mut self) -> Option<BlockId> {
        let unused = |known: &&Known| self.references(known.block) == 0;
        let is_leaf = |known: &&Known| {
            let below = |other: &Known| {
                other.domain == known.domain
                    && other.path.len() > known.path.len()
                    && other.path.starts_with(&known.path)
            };
            !self.known.iter().any(below)
        };
        let victim = self.known.iter().filter(unused).filter(is_leaf).min_by_key(|known| known.unused_since);
        let victim = victim.map(|known| known.block);
        let is_taken =
            |block: BlockId| self.references(block) > 0 || self.known.iter().any(|known| known.block == block);
        let free: Vec<BlockId> = (0..self.num_blocks as u32).map(BlockId).filter(|block| !is_taken(*block)).collect();
        let given = self.pool.allocate();
        if !free.is_empty() {
            assert!(given.is_some_and(|given| free.contains(&given)), "{free:?} are free, {given:?} was given");
        } else {
            assert_eq!(given, victim, "the least recently used leaf");
            self.known.retain(|known| Some(known.block) != given);
        }
        given
    }

    /// A block was filled: it becomes known unless something stands against it.
    fn learn(&mut self, at: usize) {
        let Holder { domain, path, blocks } = self.holders[at].clone();
        let (index, keys) = (path.len() - 1, self.keys(domain, &path));
        let parent = index.checked_sub(1).map(|above| blocks[above]);
        if domain == 2 {
            return;
        }
        let tokens = path[index];
        let contents = Contents { key: keys[index + 1], above: keys[index], parent, tokens: &tokens };
        let held = self.pool.learn(blocks[index], &contents);
        let chained = parent.is_none_or(|parent| self.known.iter().any(|known| known.block == parent));
        let same = self.find(domain, &path).map(|known| known.block);
        let expected = same.filter(|_| chained).unwrap_or(blocks[index]);
        assert_eq!(held, expected, "the block of equal contents");
        self.holders[at].blocks[index] = held;
        let taken = self.known.iter().any(|known| known.key == contents.key);
        self.num_collisions += usize::from(chained && same.is_none() && taken);
        if chained && same.is_none() && !taken {
            let key = contents.key;
            self.known.push(Known { block: held, domain, path, key, unused_since: 0 });
        }
    }

    fn extend(&mut self, at: usize, tokens: Tokens) {
        let holder = &self.holders[at];
        // What was grown and not filled is in the way.
        if holder.blocks.len() > holder.path.len() {
            return;
        }
        if let Some(block) = self.allocate() {
            self.holders[at].blocks.push(block);
            self.holders[at].path.push(tokens);
            self.learn(at);
        }
    }

    fn release(&mut self, at: usize) {
        let holder = self.holders.remove(at);
        for block in holder.blocks.iter().rev() {
            self.pool.free(*block);
        }
        for (index, block) in holder.blocks.iter().enumerate().rev() {
            let later = holder.blocks[..index].contains(block);
            if self.references(*block) == 0 && !later {
                self.clock += 1;
                let clock = self.clock;
                if let Some(known) = self.known.iter_mut().find(|known| known.block == *block) {
                    known.unused_since = clock;
                }
            }
        }
    }

    fn apply(&mut self, op: &Op) {
        let of = |holder: usize, holders: &[Holder]| (!holders.is_empty()).then(|| holder % holders.len());
        match op {
            Op::Start { domain, path } => {
                let mut blocks = Vec::new();
                while *domain != 2 && blocks.len() < path.len() {
                    let prefix = &path[..=blocks.len()];
                    let found = self.ask(*domain, prefix, blocks.last().copied());
                    assert_eq!(found, self.find(*domain, prefix).map(|known| known.block), "what is known is found");
                    let Some(block) = found else { break };
                    self.pool.share(block);
                    blocks.push(block);
                }
                let prefix = path[..blocks.len()].to_vec();
                let rest = &path[blocks.len()..];
                self.holders.push(Holder { domain: *domain, path: prefix, blocks });
                for tokens in rest {
                    self.extend(self.holders.len() - 1, *tokens);
                }
            }
            Op::Extend { holder, tokens } => {
                if let Some(at) = of(*holder, &self.holders) {
                    self.extend(at, *tokens);
                }
            }
            Op::Grow { holder } => {
                if let Some(at) = of(*holder, &self.holders)
                    && let Some(block) = self.allocate()
                {
                    self.holders[at].blocks.push(block);
                }
            }
            Op::Fork { holder } => {
                if let Some(at) = of(*holder, &self.holders) {
                    let fork = self.holders[at].clone();
                    fork.blocks.iter().for_each(|block| self.pool.share(*block));
                    self.holders.push(fork);
                }
            }
            Op::Release { holder } => {
                if let Some(at) = of(*holder, &self.holders) {
                    self.release(at);
                }
            }
            Op::Distrust { holder } => {
                if let Some(at) = of(*holder, &self.holders) {
                    let blocks = self.holders[at].blocks.clone();
                    self.pool.distrust(&blocks);
                    let roots: Vec<Known> =
                        self.known.iter().filter(|known| blocks.contains(&known.block)).cloned().collect();
                    let below = |known: &Known| {
                        roots.iter().any(|root| root.domain == known.domain && known.path.starts_with(&root.path))
                    };
                    self.known.retain(|known| !below(known));
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        for block in (0..self.num_blocks as u32).map(BlockId) {
            assert_eq!(self.pool.ref_count(block) as usize, self.references(block), "references to {block:?}");
            let known = self.known.iter().any(|known| known.block == block);
            assert_eq!(self.pool.cache().knows(block), known, "what is known of {block:?}");
        }
        let used = (0..self.num_blocks as u32).filter(|block| self.references(BlockId(*block)) > 0).count();
        let cached = self.known.iter().filter(|known| self.references(known.block) == 0).count();
        let counts = [self.pool.num_used(), self.pool.num_cached(), self.pool.num_free()];
        assert_eq!(counts.map(|count| count as usize), [used, cached, self.num_blocks - used - cached], "SCH-1");
        assert_eq!(self.pool.cache().len(), self.known.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn sch_1_11_12_13_the_pool_does_what_its_model_does(
        num_blocks in 1..12u32, is_weak: bool, ops in prop::collection::vec(op(), 1..120)
    ) {
        let mut machine = Machine::new(num_blocks, if is_weak { weak } else { sha256 });
        for op in &ops {
            machine.apply(op);
        }
        while !machine.holders.is_empty() {
            machine.apply(&Op::Release { holder: 0 });
        }
        prop_assert_eq!(machine.pool.num_used(), 0);
    }
}

#[test]
fn sch_13_blocks_of_equal_keys_and_other_tokens_are_not_mixed_up() {
    covers!("SCH-13");
    let hash: BlockHash = |_, _| BlockKey([0; 32]);
    let mut machine = Machine::new(8, hash);
    for (domain, path) in [(0, [[1, 2], [3, 4]]), (0, [[3, 4], [3, 4]]), (1, [[1, 2], [3, 4]])] {
        machine.apply(&Op::Start { domain, path: path.to_vec() });
    }
    assert_eq!((machine.known.len(), machine.num_collisions), (1, 3), "the first block alone is known");
    machine.apply(&Op::Release { holder: 0 });
    machine.apply(&Op::Start { domain: 0, path: vec![[1, 2], [1, 2]] });
    assert_eq!(machine.pool.num_used(), 6, "the first block of the new path was cached");
}

/// The table's values are from Python's hashlib.
#[test]
fn sch_11_keys_are_a_chain_of_sha_256() {
    covers!("SCH-11");
    let hex = |key: [u8; 32]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let domain = CacheDomain::new("model", "tenant", "salt");
    let mut key: BlockKey = domain.into();
    for row in crate::spec::table("SCH-11").rows() {
        let tokens = row.list::<TokenId>("tokens");
        if !tokens.is_empty() {
            key = sha256(&key, &tokens);
        }
        assert_eq!(hex(key.0), row.text("key"), "{tokens:?}");
    }
    // No two triples run together.
    assert_ne!(CacheDomain::new("a", "bc", "").0, CacheDomain::new("ab", "c", "").0);
}
