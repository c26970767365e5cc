use super::*;
use crate::gguf::ModelFile;
use crate::gguf::test_model::TestModel;
use crate::kernels::Isa;
use crate::kv_cache::{KvCache, KvShape, KvType};
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::model::decoder::Decoder;
use crate::model::observer::{AttentionView, Observer};
use crate::model::weights::Weights;
use crate::ops::pool::Pool;
use crate::ops::tests::definitions::{rms_norm, silu};
use crate::ops::tests::{TestRng, bits};
use crate::types::{BlockId, ForwardBatch, Slot, TokenId};
use std::ops::Range;
use std::sync::Arc;

/// MOE-1 word for word; the experts are sorted instead of searched.
fn moe_1(z: &[f32], used: usize) -> Vec<f32> {
    let m = z.iter().copied().max_by(f32::total_cmp).unwrap();
    let a: Vec<f64> = z.iter().map(|z| exp(f64::from(*z) - f64::from(m))).collect();
    let sum = a.iter().fold(0.0, |sum, a| sum + a);
    let s: Vec<f32> = a.iter().map(|a| (f64::from(*a as f32) / sum) as f32).collect();
    let mut order: Vec<usize> = (0..z.len()).collect();
    // Stable: equal ones stay in the order of their numbers.
    order.sort_by(|i, j| s[*j].total_cmp(&s[*i]));
    let total = order[..used].iter().fold(0f32, |total, i| total + s[*i]);
    let mut shares = vec![0.0; z.len()];
    order[..used].iter().for_each(|i| shares[*i] = s[*i] / total.max(2f32.powi(-14)));
    shares
}

#[test]
fn moe_1_the_bits_are_those_of_the_definition() {
    covers!("MOE-1");
    let mut rng = TestRng::new(37);
    for (experts, used, scale) in [(1, 1, 1.0), (8, 2, 3.0), (60, 4, 0.1), (128, 8, 20.0), (5, 5, 200.0)] {
        for _ in 0..50 {
            let mut row = rng.floats(experts, scale);
            // Some are equal.
            row[experts / 2] = row[0];
            let expected = moe_1(&row, used);
            keep_best(&mut row, used);
            assert_eq!(bits(&row), bits(&expected), "{used} of {experts}");
        }
    }
}

#[test]
fn moe_1_the_best_experts_share_the_row() {
    covers!("MOE-1");
    // Odds 1 : 2 : 4 : 1, of which 2 and 4 stay.
    let mut row = [1f32.ln(), 2f32.ln(), 4f32.ln(), 1f32.ln()];
    keep_best(&mut row, 2);
    for (share, expected) in row.iter().zip([0.0, 1.0 / 3.0, 2.0 / 3.0, 0.0]) {
        assert!((share - expected).abs() < 1e-6, "{row:?}");
    }
}

#[test]
fn moe_1_the_first_of_equal_experts_stay() {
    covers!("MOE-1");
    let mut row = [0.5, 0.5, 0.5];
    keep_best(&mut row, 2);
    assert_eq!(row, [0.5, 0.5, 0.0]);
}

#[test]
fn moe_1_logits_that_are_not_finite_give_nan() {
    covers!("MOE-1");
    for bad in [f32::NAN, f32::INFINITY] {
        let mut row = [bad, 0.0];
        keep_best(&mut row, 1);
        assert!(row.iter().all(|share| share.is_nan()), "{row:?}");
    }
}

/// The values of a step by point and layer.
#[derive(Default)]
struct Record(Vec<(Point, usize, Vec<f32>)>);

impl Record {
    fn of(&self, point: Point, layer: usize) -> &[f32] {
        let found = self.0.iter().find(|(p, l, _)| (*p, *l) == (point, layer));
        &found.expect("shown").2
    }
}

impl Observer for Record {
    fn begin_step(&mut self, _: usize, _: Range<usize>, _: &ForwardBatch) {}

    fn rows(&mut self, point: Point, layer: usize, values: &[f32]) {
        self.0.push((point, layer, values.to_vec()));
    }

    fn attention(&mut self, _: &AttentionView<'_>) {}

    fn sampled(&mut self, _: TokenId) {}
}

/// A step of one sequence of 24 tokens, observed.
fn observed(file: &ModelFile, isa: Isa, threads: usize) -> Record {
    let config = ModelConfig::from_metadata(file.metadata()).unwrap();
    let weights = Weights::load(file, &config, &mut |_| {}).unwrap();
    let (layers, kv_heads, head_dim) = (config.num_layers, config.num_kv_heads, config.head_dim);
    let mut kv = KvCache::new(KvShape { layers, kv_heads, head_dim, block_size: 32, kv_type: KvType::F32 }, 1).unwrap();
    let mut model = Decoder::new(config, weights, Arc::new(Pool::new(threads).unwrap()), isa, 24, 1);
    let batch = ForwardBatch {
        token_ids: (0..24).map(|i| i * 13 % 320).collect(),
        positions: (0..24).collect(),
        slot_mapping: (0..24).map(Slot).collect(),
        query_start_loc: vec![0, 24],
        seq_lens: vec![24],
        block_tables: vec![BlockId(0)],
        block_table_start: vec![0, 1],
        ..Default::default()
    };
    let mut record = Record::default();
    model.forward_observed(&batch, &mut kv, 0..24, &mut record);
    record
}

/// The F32 tensors of a file.
struct Tensors<'a>(&'a ModelFile);

impl Tensors<'_> {
    fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = self.0.tensor(name).expect(name).data.as_chunks::<4>().0;
        bytes.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    /// MM-4: expert `number` of a stack of matrices, or the only matrix, times `x`.
    fn product(&self, name: &str, number: usize, n: usize, x: &[f32]) -> Vec<f32> {
        let rows = &self.floats(name)[number * n * x.len()..][..n * x.len()];
        rows.chunks_exact(x.len()).map(|row| row.iter().zip(x).fold(0f32, |acc, (w, x)| w.mul_add(*x, acc))).collect()
    }

    /// NORM-1, MOE-1 and MOE-2: the sublayer's output for one row.
    fn mixture(&self, layer: usize, x: &[f32]) -> Vec<f32> {
        let name = |what: &str| format!("blk.{layer}.{what}.weight");
        let h = rms_norm(x, &self.floats(&name("ffn_norm")), 1e-5);
        let mut out = vec![0f32; x.len()];
        let shares = moe_1(&self.product(&name("ffn_gate_inp"), 0, 8, &h), 2);
        for (e, share) in shares.into_iter().enumerate().filter(|(_, share)| *share != 0.0) {
            let gate = self.product(&name("ffn_gate_exps"), e, 96, &h);
            let up = self.product(&name("ffn_up_exps"), e, 96, &h);
            let inner: Vec<f32> = gate.iter().zip(up).map(|(gate, up)| silu(*gate) * up).collect();
            let y = self.product(&name("ffn_down_exps"), e, x.len(), &inner);
            out.iter_mut().zip(y).for_each(|(out, y)| *out += share * y);
        }
        out
    }
}

#[test]
fn moe_2_the_bits_are_those_of_the_definition() {
    covers!("MOE-1", "MOE-2");
    let file = ModelFile::from_bytes(TestModel::of("mixtral").unwrap().build()).unwrap();
    let tensors = Tensors(&file);
    for (isa, threads) in Isa::available().into_iter().flat_map(|isa| [(isa, 1), (isa, 3)]) {
        let record = observed(&file, isa, threads);
        let stream = record.of(Point::BlockOut, 0).iter().zip(record.of(Point::AttnOut, 1)).map(|(x, y)| x + y);
        let stream: Vec<f32> = stream.collect();
        let outs = record.of(Point::FfnOut, 1).chunks_exact(64);
        assert_eq!(outs.len(), 24);
        for (row, (x, out)) in stream.chunks_exact(64).zip(outs).enumerate() {
            assert_eq!(bits(out), bits(&tensors.mixture(1, x)), "row {row} {isa:?} {threads} threads");
        }
    }
}
