//! The worked examples of `specs/01_GPT2_PIPELINE.md` and `specs/02_LLAMA2_PIPELINE.md`: the engine's values at every
//! checkpoint against the documents' tables.

use super::example::Example;
use crate::spec::table::Table;
use crate::spec::{named_table, table};
use crate::support::isas;
use crate::support::run_model::{Circumstances, load};
use llorch_cpud::engine::request::NewSequence;
use llorch_cpud::engine::{Engine, EngineConfig};
use llorch_cpud::kernels::Isa;
use llorch_cpud::kv_cache::{Head, KvType, LayerKv};
use llorch_cpud::model::observer::{AttentionView, Observer, Point};
use llorch_cpud::sampling::params::{SamplingParams, SequenceParams, StopParams};
use llorch_cpud::scheduler::SchedulerConfig;
use llorch_cpud::types::{ForwardBatch, SeqId, TokenId};
use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// What the engine showed of one sequence, position by position.
#[derive(Default)]
pub struct Recorder {
    /// Name and layer to `[positions, width]`.
    pub values: BTreeMap<(&'static str, usize), Vec<f32>>,
    /// Layer to the scores of each position and head.
    scores: BTreeMap<usize, Vec<Vec<f32>>>,
    tokens: Vec<TokenId>,
    /// Of each token chosen, the probability of every token at temperature 1.
    probabilities: Vec<Vec<f64>>,
}

impl Recorder {
    fn add(&mut self, name: &'static str, layer: usize, values: &[f32]) {
        self.values.entry((name, layer)).or_default().extend(values);
    }
}

impl Observer for Recorder {
    fn begin_step(&mut self, _: usize, _: Range<usize>, _: &ForwardBatch) {}

    /// The sequence is alone, so that all rows are its own.
    fn rows(&mut self, point: Point, layer: usize, values: &[f32]) {
        let name = match point {
            Point::AttnNorm => "attn_norm",
            Point::Q => "q",
            Point::K => "k",
            Point::V => "v",
            Point::QRope => "q_rope",
            Point::KRope => "k_rope",
            Point::AttnOut => "attn_out",
            Point::FfnOut => "ffn_out",
            Point::BlockOut => "block_out",
            Point::Logits => "logits",
            _ => return,
        };
        self.add(name, layer, values);
    }

    fn attention(&mut self, view: &AttentionView<'_>) {
        let (shape, batch) = (view.kv_cache.shape(), view.batch);
        let LayerKv::F32(elements) = view.kv_cache.layer(view.layer) else { panic!("the examples have an F32 cache") };
        let head_len = view.kv_cache.block_len() / shape.kv_heads;
        // K and V of one head at a slot, as KVC-2 says.
        let read = |slot: usize, head: usize| -> (Vec<f32>, Vec<f32>) {
            let (block, offset) = (slot / shape.block_size, slot % shape.block_size);
            let head = Head::of(shape, &elements[(block * shape.kv_heads + head) * head_len..][..head_len]);
            let k = (0..shape.head_dim).map(|d| head.k[d * shape.block_size + offset]).collect();
            (k, head.v[offset * shape.head_dim..][..shape.head_dim].to_vec())
        };
        for slot in &batch.slot_mapping {
            for head in 0..shape.kv_heads {
                let (k, v) = read(slot.0 as usize, head);
                self.add("k_cache", view.layer, &k);
                self.add("v_cache", view.layer, &v);
            }
        }
        let heads = view.q.len() / batch.num_rows() / shape.head_dim;
        for (q, position) in view.q.chunks(heads * shape.head_dim).zip(&batch.positions) {
            for (head, q) in q.chunks(shape.head_dim).enumerate() {
                let score = |j: usize| {
                    let slot = batch.block_tables[j / shape.block_size].0 as usize * shape.block_size;
                    let (k, _) = read(slot + j % shape.block_size, head * shape.kv_heads / heads);
                    q.iter().zip(&k).map(|(q, k)| q * k).sum::<f32>() * view.spec.scale
                };
                self.scores.entry(view.layer).or_default().push((0..=*position as usize).map(score).collect());
            }
        }
    }

    fn sampled(&mut self, token: TokenId) {
        self.tokens.push(token);
    }
}

/// Three greedy tokens behind `prompt`, in as few steps as can be.
pub fn run(example: &Example, prompt: &[TokenId]) -> Recorder {
    run_cut(example, prompt, Isa::detect(), (8, 4))
}

/// As [`run`], with steps of at most `budget` tokens and blocks of `block_size`.
fn run_cut(example: &Example, prompt: &[TokenId], isa: Isa, (budget, block_size): (u32, u32)) -> Recorder {
    let num_blocks = 8;
    let circumstances = Circumstances {
        isa,
        threads: 2,
        max_rows: budget as usize,
        max_logits_rows: 1,
        num_blocks,
        block_size: block_size as usize,
    };
    let built = load(example.build(), KvType::F32, circumstances);
    let scheduler = SchedulerConfig {
        max_num_seqs: 1,
        max_num_batched_tokens: budget,
        num_blocks: num_blocks as u32,
        block_size,
        max_model_len: 8,
    };
    let config = EngineConfig { scheduler, eog_ids: vec![] };
    let mut engine = Engine::new(config, built.model, built.kv_cache, built.pool).expect("the limits are good");
    let params = SequenceParams {
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stopping: StopParams { max_tokens: 3, ..StopParams::default() },
        logprobs: Some(100),
    };
    let sequence = NewSequence::new(prompt.into(), Arc::new(params));
    engine.submit(SeqId(0), sequence).expect("it fits");
    engine.observe(SeqId(0), Box::new(Recorder::default()));
    let mut probabilities = Vec::new();
    while engine.has_work() {
        for output in &engine.step().outputs {
            let (sampled, _) = output.result.as_ref().expect("finite logits");
            let mut row = vec![0.0; sampled.top.len()];
            sampled.top.iter().for_each(|t| row[t.token as usize] = f64::from(t.logprob).exp());
            probabilities.push(row);
        }
    }
    let observer: Box<dyn Any> = engine.take_observer().expect("given above");
    let mut recorder = *observer.downcast::<Recorder>().expect("it is a recorder");
    recorder.probabilities = probabilities;
    recorder
}

/// `|delta| <= tolerance * max |reference|`. The tables round to nine digits, which is nothing beside it.
fn assert_close(what: &str, found: &[Vec<f64>], reference: &[Vec<f64>], tolerance: f64) {
    assert_eq!(found.len(), reference.len(), "{what}: rows");
    let all = reference.iter().flatten().filter(|x| x.is_finite());
    let max = all.fold(0.0, |max: f64, x| max.max(x.abs()));
    assert!(max > 0.0, "{what}: a reference of zeros");
    for (row, (found, reference)) in found.iter().zip(reference).enumerate() {
        assert_eq!(found.len(), reference.len(), "{what}, row {row}: columns");
        for (column, (found, reference)) in found.iter().zip(reference).enumerate() {
            let is_close = found == reference || (found - reference).abs() <= tolerance * max;
            assert!(is_close, "{what}, row {row}, column {column}: {found} for {reference}");
        }
    }
}

fn rows_of(values: &[f32], width: usize) -> Vec<Vec<f64>> {
    values.chunks(width).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect()
}

/// Every table of section 10 against one run.
struct Check<'a> {
    prefix: &'a str,
    tolerances: Table,
    run: &'a Recorder,
}

impl Check<'_> {
    fn table(&self, checkpoint: u32, name: &str) -> Table {
        named_table(&format!("{}-VAL-{checkpoint:03}", self.prefix), name)
    }

    fn tolerance(&self, name: &str, layer: usize) -> f64 {
        let row = self.tolerances.rows().find(|row| row.text("tensor") == name).expect("a tolerance");
        row.get::<f64>("tolerance") * ((layer + 1) as f64).sqrt()
    }

    fn values(&self, name: &'static str, layer: usize, width: usize) -> Vec<Vec<f64>> {
        rows_of(&self.run.values[&(name, layer)], width)
    }

    fn close(&self, table: &Table, name: &'static str, layer: usize) {
        let reference = table.numbers(1);
        let found = self.values(name, layer, reference[0].len());
        assert_close(&format!("{} {name} {layer}", self.prefix), &found, &reference, self.tolerance(name, layer));
    }

    fn all(&self, is_rotated: bool) {
        for (checkpoint, name) in [(1, "attn_norm"), (2, "q"), (2, "k"), (2, "v"), (5, "attn_out"), (6, "ffn_out")] {
            self.close(&self.table(checkpoint, name), name, 0);
        }
        if is_rotated {
            self.close(&self.table(3, "q_rope"), "q_rope", 0);
            self.close(&self.table(3, "k_rope"), "k_rope", 0);
        }
        self.close(&self.table(3, "k_cache"), "k_cache", 0);
        self.close(&self.table(3, "v_cache"), "v_cache", 0);
        let values = &self.run.values;
        let k = if is_rotated { "k_rope" } else { "k" };
        assert_eq!(values[&("k_cache", 0)], values[&(k, 0)], "an F32 cache keeps the bits");
        assert_eq!(values[&("v_cache", 0)], values[&("v", 0)], "an F32 cache keeps the bits");
        self.scores();
        self.close(&self.table(7, "block_out"), "block_out", 0);
        self.close(&self.table(7, "block_out_1"), "block_out", 1);
        self.close(&self.table(8, "logits"), "logits", 0);
        self.embedding();
        self.selection();
    }

    /// What the residual sums of block 0 began with.
    fn embedding(&self) {
        let reference = table(&format!("{}-EMB-002", self.prefix)).numbers(1);
        let width = reference[0].len();
        let [block, attention, ffn] = ["block_out", "attn_out", "ffn_out"].map(|name| self.values(name, 0, width));
        let found: Vec<Vec<f64>> = (0..reference.len())
            .map(|t| (0..width).map(|i| block[t][i] - attention[t][i] - ffn[t][i]).collect())
            .collect();
        // Two f32 sums of numbers below 8: two roundings of 2^-22.
        assert!(block.iter().chain(&attention).flatten().all(|x| x.abs() < 8.0));
        for (found, reference) in found.iter().flatten().zip(reference.iter().flatten()) {
            assert!((found - reference).abs() <= 2.0 * 2f64.powi(-22), "embedding: {found} for {reference}");
        }
    }

    fn scores(&self) {
        let reference = self.table(4, "scores").numbers(2);
        let width = reference[0].len();
        let padded = |row: &Vec<f32>| {
            let row = row.iter().map(|x| f64::from(*x));
            row.chain(std::iter::repeat(f64::NEG_INFINITY)).take(width).collect::<Vec<_>>()
        };
        let found: Vec<Vec<f64>> = self.run.scores[&0].iter().map(padded).collect();
        assert_close("scores", &found, &reference, self.tolerance("scores", 0));
    }

    /// Checkpoints 9 to 12.
    fn selection(&self) {
        let selected = self.table(9, "selected_logits");
        let reference = selected.numbers(1);
        let logits = self.values("logits", 0, reference[0].len());
        let found: Vec<Vec<f64>> = selected.rows().map(|row| logits[row.get::<usize>("position")].clone()).collect();
        assert_close("selected_logits", &found, &reference, self.tolerance("selected_logits", 0));
        let argmax = self.table(10, "argmax");
        for (row, logits) in argmax.rows().zip(&found) {
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let first = logits.iter().position(|x| *x == largest);
            assert_eq!(first, Some(row.get("token")), "argmax at {}", row.text("position"));
        }
        let probabilities = self.table(11, "probabilities").numbers(1);
        assert_close("probabilities", &self.run.probabilities, &probabilities, self.tolerance("probabilities", 0));
        for row in self.table(12, "tokens").rows() {
            assert_eq!(self.run.tokens, row.list::<TokenId>("tokens"));
        }
    }
}

fn check(prefix: &str, is_rotated: bool) {
    let example = Example::of(prefix);
    let tokens = named_table(&format!("{prefix}-VAL-012"), "tokens");
    let prompt: Vec<TokenId> = tokens.rows().next().expect("a row").list("prompt");
    let tolerances = table(&format!("{prefix}-VAL-000"));
    for isa in isas() {
        let whole = run_cut(&example, &prompt, isa, (8, 4));
        Check { prefix, tolerances: tolerances.clone(), run: &whole }.all(is_rotated);
        // In chunks, token by token, and in blocks of other sizes: the same bits.
        for cut in [(1, 4), (2, 4), (2, 1), (8, 1), (1, 3)] {
            let run = run_cut(&example, &prompt, isa, cut);
            Check { prefix, tolerances: tolerances.clone(), run: &run }.all(is_rotated);
            assert_eq!(run.values, whole.values, "{prefix} {isa:?} cut into {cut:?}");
            assert_eq!((run.tokens, run.probabilities), (whole.tokens.clone(), whole.probabilities.clone()));
        }
    }
}

#[test]
fn gpt2_example_at_every_checkpoint() {
    covers!("GPT2-EMB-002", "GPT2-EMB-003", "GPT2-MASK-001", "GPT2-BLK-001", "GPT2-BLK-002");
    covers!("GPT2-ATTN-001", "GPT2-ATTN-002", "GPT2-ATTN-003", "GPT2-ATTN-004", "GPT2-ATTN-005");
    covers!("GPT2-ATTN-006", "GPT2-ATTN-007", "GPT2-ATTN-008", "GPT2-FFN-001", "GPT2-FFN-002", "GPT2-FFN-003");
    covers!("GPT2-HEAD-001", "GPT2-HEAD-002", "GPT2-SAMP-001", "GPT2-LOOP-001", "GPT2-VAL-000");
    covers!("GPT2-VAL-001", "GPT2-VAL-002", "GPT2-VAL-003", "GPT2-VAL-004", "GPT2-VAL-005", "GPT2-VAL-006");
    covers!("GPT2-VAL-007", "GPT2-VAL-008", "GPT2-VAL-009", "GPT2-VAL-010", "GPT2-VAL-011", "GPT2-VAL-012");
    check("GPT2", false);
}

#[test]
fn llama2_example_at_every_checkpoint() {
    covers!("LLAMA2-EMB-002", "LLAMA2-EMB-003", "LLAMA2-ROPE-001", "LLAMA2-ROPE-002", "LLAMA2-BLK-001");
    covers!("LLAMA2-NORM-001", "LLAMA2-ATTN-001", "LLAMA2-ATTN-002", "LLAMA2-ATTN-003", "LLAMA2-ATTN-004");
    covers!("LLAMA2-ATTN-005", "LLAMA2-FFN-001", "LLAMA2-FFN-002", "LLAMA2-FFN-003", "LLAMA2-HEAD-001");
    covers!("LLAMA2-HEAD-002", "LLAMA2-SAMP-001", "LLAMA2-LOOP-001", "LLAMA2-VAL-000");
    covers!("LLAMA2-VAL-001", "LLAMA2-VAL-002", "LLAMA2-VAL-003", "LLAMA2-VAL-004", "LLAMA2-VAL-005");
    covers!("LLAMA2-VAL-006", "LLAMA2-VAL-007", "LLAMA2-VAL-008", "LLAMA2-VAL-009", "LLAMA2-VAL-010");
    covers!("LLAMA2-VAL-011", "LLAMA2-VAL-012");
    check("LLAMA2", true);
}
