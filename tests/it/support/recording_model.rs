//! A model that checks LAW-1 as it runs: the logits after a token prefix have the same bits every time.
//!
//! It keeps the tokens of every slot beside the real cache, reads each sampling row's whole prefix back through the
//! block table, and compares the row's bits with those any earlier run recorded for the same prefix.

use llorch_cpud::kv_cache::KvCache;
use llorch_cpud::model::{ForwardBatch, Model};
use llorch_cpud::types::TokenId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Logits by prefix, shared between runs.
#[derive(Default)]
pub struct Ledger {
    bits: HashMap<Vec<TokenId>, Vec<u32>>,
    /// Rows that were compared with an earlier record.
    pub compared: usize,
    /// The first prefix whose bits differed, with the first differing entry.
    pub difference: Option<String>,
}

/// Wraps a model and fills a ledger.
pub struct RecordingModel<M> {
    inner: M,
    ledger: Arc<Mutex<Ledger>>,
    slots: Vec<TokenId>,
    block_size: usize,
}

impl<M: Model> RecordingModel<M> {
    pub fn new(inner: M, ledger: Arc<Mutex<Ledger>>, num_blocks: usize, block_size: usize) -> Self {
        Self { inner, ledger, slots: vec![TokenId::MAX; num_blocks * block_size], block_size }
    }

    /// The tokens `0 ..= position` of sequence `b`, as the block table finds them.
    fn prefix(&self, batch: &ForwardBatch, b: usize, position: usize) -> Vec<TokenId> {
        let table = &batch.block_tables[batch.block_table_start[b] as usize..];
        let slot = |p: usize| table[p / self.block_size].0 as usize * self.block_size + p % self.block_size;
        (0..=position).map(|p| self.slots[slot(p)]).collect()
    }
}

impl Ledger {
    fn check(&mut self, prefix: Vec<TokenId>, logits: &[f32]) {
        let bits: Vec<u32> = logits.iter().map(|l| l.to_bits()).collect();
        match self.bits.get(&prefix) {
            None => {
                self.bits.insert(prefix, bits);
            }
            Some(first) => {
                self.compared += 1;
                if *first != bits && self.difference.is_none() {
                    let at = first.iter().zip(&bits).position(|(a, b)| a != b);
                    self.difference = Some(format!("prefix {prefix:?}: first difference at entry {at:?}"));
                }
            }
        }
    }
}

impl<M: Model> Model for RecordingModel<M> {
    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    fn forward(&mut self, batch: &ForwardBatch, kv_cache: &mut KvCache) -> &mut [f32] {
        for copy in &batch.block_copies {
            let from = copy.from.0 as usize * self.block_size;
            self.slots.copy_within(from..from + self.block_size, copy.to.0 as usize * self.block_size);
        }
        for (slot, token) in batch.slot_mapping.iter().zip(&batch.token_ids) {
            self.slots[slot.0 as usize] = *token;
        }
        let prefixes: Vec<Vec<TokenId>> = batch
            .logits_rows
            .iter()
            .map(|row| {
                let b = batch.query_start_loc.partition_point(|start| start <= row) - 1;
                self.prefix(batch, b, batch.positions[*row as usize] as usize)
            })
            .collect();
        let vocab_size = self.inner.vocab_size();
        let logits = self.inner.forward(batch, kv_cache);
        let mut ledger = self.ledger.lock().expect("no test panics while it holds the ledger");
        for (prefix, row) in prefixes.into_iter().zip(logits.chunks_exact(vocab_size)) {
            ledger.check(prefix, row);
        }
        drop(ledger);
        logits
    }
}
