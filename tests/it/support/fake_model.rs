//! A model without weights whose next token depends on every token of the sequence, as found through the block table.
//!
//! It writes the token ids themselves to the KV cache. A row of logits is a hash of all tokens up to the row's
//! position, read back block by block: a wrong slot, a lost block, a copy that was not made or a block that two
//! sequences write changes the text.

use llorch_cpud::engine::{Engine, EngineConfig};
use llorch_cpud::kv_cache::{KvCache, KvShape, KvType, LayerKvMut};
use llorch_cpud::model::Model;
use llorch_cpud::ops::pool::Pool;
use llorch_cpud::scheduler::SchedulerConfig;
use llorch_cpud::types::{ForwardBatch, TokenId};
use std::sync::Arc;

/// What a slot of a new cache holds: NaN, read as an integer.
const POISON: TokenId = TokenId::MAX;

/// Called before each pass: for tests that hold the step, count it or make it panic.
pub type Hook = Box<dyn FnMut(&ForwardBatch) + Send>;

pub struct FakeModel {
    vocab_size: usize,
    block_size: usize,
    /// `[R, vocab_size]`
    logits: Vec<f32>,
    /// A sequence that has this token gets rows of NaN.
    pub nan_token: Option<TokenId>,
    /// A step that computes this token panics.
    pub panic_token: Option<TokenId>,
    pub hook: Option<Hook>,
}

impl FakeModel {
    pub fn new(vocab_size: usize, block_size: u32) -> Self {
        Self {
            vocab_size,
            block_size: block_size as usize,
            logits: Vec::new(),
            nan_token: None,
            panic_token: None,
            hook: None,
        }
    }

    /// The logits after `tokens`: what any correct engine must sample from.
    pub fn logits_after(tokens: impl IntoIterator<Item = TokenId>, vocab_size: usize) -> Vec<f32> {
        let state = tokens.into_iter().fold(0x5EED, |state, token| mix(state ^ u64::from(token)));
        let logit = |id: u64| (mix(state.wrapping_add(mix(id))) >> 40) as f32 / (1 << 24) as f32 * 8.0 - 4.0;
        (0..vocab_size as u64).map(logit).collect()
    }

    /// The tokens of sequence `b` at positions `0 ..= last`, read through its block table.
    fn read_back(&self, batch: &ForwardBatch, cache: &[TokenId], b: usize, last: u32) -> Vec<TokenId> {
        let blocks = &batch.block_tables[batch.block_table_start[b] as usize..batch.block_table_start[b + 1] as usize];
        let slot = |position: usize| {
            blocks[position / self.block_size].0 as usize * self.block_size + position % self.block_size
        };
        let read = |position: usize| cache[place(slot(position), self.block_size)];
        let tokens: Vec<TokenId> = (0..=last as usize).map(read).collect();
        assert!(!tokens.contains(&POISON), "a position of the sequence was never written");
        tokens
    }
}

impl Model for FakeModel {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn forward(&mut self, batch: &ForwardBatch, kv_cache: &mut KvCache) -> &mut [f32] {
        if let Some(hook) = &mut self.hook {
            hook(batch);
        }
        check_shape(batch, self.block_size);
        let marked = |token: Option<TokenId>, tokens: &[TokenId]| token.is_some_and(|token| tokens.contains(&token));
        if marked(self.panic_token, &batch.token_ids) {
            // As a panic is, but without a report: simulations do this a thousand times.
            std::panic::resume_unwind(Box::new("the fake model was told to panic"));
        }
        let LayerKvMut::F32(cache) = kv_cache.layer_mut(0) else { panic!("the cache of the fake model is F32") };
        let cache: &mut [TokenId] = bytemuck::cast_slice_mut(cache);
        for (slot, token) in batch.slot_mapping.iter().zip(&batch.token_ids) {
            cache[place(slot.0 as usize, self.block_size)] = *token;
        }
        self.logits.clear();
        for &row in &batch.logits_rows {
            let b = batch.query_start_loc.partition_point(|&start| start <= row) - 1;
            let tokens = self.read_back(batch, cache, b, batch.positions[row as usize]);
            if marked(self.nan_token, &tokens) {
                self.logits.extend(std::iter::repeat_n(f32::NAN, self.vocab_size));
            } else {
                self.logits.extend(Self::logits_after(tokens, self.vocab_size));
            }
        }
        &mut self.logits
    }
}

/// Where the K of a slot is, in a layer of one head of one element: each block has its K before its V.
fn place(slot: usize, block_size: usize) -> usize {
    slot / block_size * 2 * block_size + slot % block_size
}

/// What a batch promises (`ForwardBatch`): the arrays agree with each other and no slot is written twice (SCH-2).
fn check_shape(batch: &ForwardBatch, block_size: usize) {
    let (rows, seqs) = (batch.num_rows(), batch.num_seqs());
    assert_eq!((batch.positions.len(), batch.slot_mapping.len()), (rows, rows));
    assert_eq!((batch.query_start_loc.len(), batch.block_table_start.len()), (seqs + 1, seqs + 1));
    assert_eq!((batch.query_start_loc[0], batch.query_start_loc[seqs] as usize), (0, rows));
    assert_eq!((batch.block_table_start[0], batch.block_table_start[seqs] as usize), (0, batch.block_tables.len()));
    assert!(batch.logits_rows.is_sorted_by(|a, b| a < b), "rows that sample are not ascending");
    for b in 0..seqs {
        let range = batch.query_start_loc[b] as usize..batch.query_start_loc[b + 1] as usize;
        let blocks = &batch.block_tables[batch.block_table_start[b] as usize..batch.block_table_start[b + 1] as usize];
        assert!(!range.is_empty(), "a sequence without rows");
        assert_eq!(batch.seq_lens[b], batch.positions[range.end - 1] + 1);
        assert_eq!(blocks.len(), (batch.seq_lens[b] as usize).div_ceil(block_size), "blocks of sequence {b}");
        for row in range {
            let position = batch.positions[row] as usize;
            assert_eq!(position, batch.seq_lens[b] as usize - (batch.query_start_loc[b + 1] as usize - row));
            let expected = blocks[position / block_size].0 as usize * block_size + position % block_size;
            assert_eq!(batch.slot_mapping[row].0 as usize, expected, "slot of position {position}");
        }
    }
    let mut slots = batch.slot_mapping.clone();
    slots.sort_unstable();
    assert!(slots.is_sorted_by(|a, b| a < b), "SCH-2: a slot is written twice");
}

/// The output function of SplitMix64.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// An engine over a fake model, with one thread.
pub fn fake_engine(scheduler: SchedulerConfig, eog_ids: Vec<TokenId>, vocab_size: usize) -> Engine<FakeModel> {
    fake_engine_with(scheduler, eog_ids, FakeModel::new(vocab_size, scheduler.block_size))
}

/// An engine over `model`, with one thread.
pub fn fake_engine_with(scheduler: SchedulerConfig, eog_ids: Vec<TokenId>, model: FakeModel) -> Engine<FakeModel> {
    let pool = Arc::new(Pool::new(1).expect("one thread"));
    Engine::new(EngineConfig { scheduler, eog_ids }, model, token_cache(&scheduler), pool).expect("valid limits")
}

/// The smallest cache of these limits, with a place of 32 bits for each token.
pub fn token_cache(scheduler: &SchedulerConfig) -> KvCache {
    let block_size = scheduler.block_size as usize;
    let shape = KvShape { layers: 1, kv_heads: 1, head_dim: 1, block_size, kv_type: KvType::F32 };
    KvCache::new(shape, scheduler.num_blocks as usize).expect("a small cache")
}
