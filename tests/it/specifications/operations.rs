//! Single operations of `specs/01_GPT2_PIPELINE.md` and `specs/02_LLAMA2_PIPELINE.md` against the small vectors of
//! their tables, whose inputs are exact in f32. u is 2^-24.

use crate::spec::table;
use crate::spec::table::Table;
use crate::support::isas;
use llorch_cpud::kv_cache::{KvCache, KvShape, KvType};
use llorch_cpud::ops::Ctx;
use llorch_cpud::ops::activation::{Activation, apply, gate_mul};
use llorch_cpud::ops::attention::{AttentionSpec, paged_attention, write_kv};
use llorch_cpud::ops::norm::{Norm, NormKind, normalize};
use llorch_cpud::ops::pool::Pool;
use llorch_cpud::ops::rope::{Pairing, RopeScaling, RopeTable, rotate};
use llorch_cpud::types::{BlockId, ForwardBatch, Slot};

const U: f64 = 1.0 / (1 << 24) as f64;
/// What a table loses by printing nine digits.
const PRINTED: f64 = 5e-9;

fn for_each_path(check: impl Fn(&Ctx)) {
    let pool = Pool::new(2).expect("threads");
    for isa in isas() {
        check(&Ctx { pool: &pool, isa });
    }
}

/// The row of a table of vectors.
fn vector(table: &Table, name: &str) -> Vec<f64> {
    let row = table.rows.iter().position(|cells| cells[0] == name).expect("a row");
    table.numbers(1).swap_remove(row)
}

fn f32s(values: &[f64]) -> Vec<f32> {
    values.iter().map(|x| *x as f32).collect()
}

/// `|delta| <= relative * |reference| + absolute`, beside what printing loses.
fn assert_close(what: &str, found: &[f32], reference: &[f64], relative: f64, absolute: f64) {
    assert_eq!(found.len(), reference.len(), "{what}");
    for (i, (found, reference)) in found.iter().zip(reference).enumerate() {
        let bound = (relative + PRINTED) * reference.abs() + absolute;
        assert!((f64::from(*found) - reference).abs() <= bound, "{what}, element {i}: {found} for {reference}");
    }
}

#[test]
fn gpt2_blk_002_layer_norm() {
    covers!("GPT2-BLK-002");
    let table = table("GPT2-BLK-002");
    let [x, weight, bias] = ["x", "weight", "bias"].map(|name| f32s(&vector(&table, name)));
    for_each_path(|ctx| {
        let mut out = vec![0.0; x.len()];
        let norm = Norm { kind: NormKind::Layer, weight: &weight, bias: Some(&bias), eps: 1e-5 };
        normalize(ctx, &x, &norm, &mut out);
        // NORM-2 with one chunk of 16: c = 6, |x| and f * |weight| below 3, so that the mean moves an output by less
        // than 6 u * 3 * 3; the rest is 10 u of an output below 4, and u of it after the bias.
        assert_close("layer norm", &out, &vector(&table, "out"), 0.0, (54.0 + 40.0 + 4.0) * U);
    });
}

#[test]
fn llama2_norm_001_rms_norm() {
    covers!("LLAMA2-NORM-001");
    let table = table("LLAMA2-NORM-001");
    let [x, weight] = ["x", "weight"].map(|name| f32s(&vector(&table, name)));
    for_each_path(|ctx| {
        let mut out = vec![0.0; x.len()];
        let norm = Norm { kind: NormKind::Rms, weight: &weight, bias: None, eps: 1e-5 };
        normalize(ctx, &x, &norm, &mut out);
        // NORM-1 with one chunk of 16.
        assert_close("rms norm", &out, &vector(&table, "out"), 7.5 * U, 0.0);
    });
}

#[test]
fn gpt2_ffn_002_gelu() {
    covers!("GPT2-FFN-002");
    let numbers = table("GPT2-FFN-002").numbers(0);
    let (x, gelu): (Vec<f64>, Vec<f64>) = numbers.iter().map(|row| (row[0], row[1])).unzip();
    for_each_path(|ctx| {
        let mut out = f32s(&x);
        apply(ctx, Activation::GeluTanh, &mut out);
        // ACT-2: u is below 25 at |x| = 8, and gelu(-8) is nothing: the reference's tanh is exactly -1 there.
        assert_close("gelu", &out, &gelu, 1.2e-7 + (3.0 + 8.0 * 25.0) * U, 1e-12);
    });
}

#[test]
fn llama2_ffn_002_swiglu() {
    covers!("LLAMA2-FFN-002");
    let numbers = table("LLAMA2-FFN-002").numbers(0);
    let column = |i: usize| numbers.iter().map(|row| row[i]).collect::<Vec<f64>>();
    for_each_path(|ctx| {
        let mut out = f32s(&column(0));
        gate_mul(ctx, Activation::Silu, &mut out, &f32s(&column(1)));
        // The exponential's 1.2e-7, then a sum, a quotient and a product.
        assert_close("swiglu", &out, &column(2), 1.2e-7 + 3.0 * U, 0.0);
    });
}

#[test]
fn llama2_rope_001_frequencies() {
    covers!("LLAMA2-ROPE-001");
    let frequencies = RopeTable::new(128, 10_000.0, &RopeScaling::None).expect("a table");
    for row in table("LLAMA2-ROPE-001").rows() {
        let found = frequencies.frequencies()[row.get::<usize>("pair")];
        assert!((found / row.get::<f64>("frequency") - 1.0).abs() <= PRINTED, "pair {}", row.text("pair"));
        let turn = std::f64::consts::TAU / found;
        assert!((turn / row.get::<f64>("positions_a_turn") - 1.0).abs() <= PRINTED, "pair {}", row.text("pair"));
    }
}

#[test]
fn llama2_rope_002_rotation() {
    covers!("LLAMA2-ROPE-002");
    let table = table("LLAMA2-ROPE-002");
    let (rows, angles) = (table.numbers(1), RopeTable::new(8, 10_000.0, &RopeScaling::None).expect("a table"));
    for_each_path(|ctx| {
        for (row, expected) in table.rows().zip(&rows) {
            let mut cos_sin = Vec::new();
            angles.fill(&[row.get("position")], &mut cos_sin);
            // The same head twice: each head turns alike.
            let mut x = f32s(&[rows[0].clone(), rows[0].clone()].concat());
            rotate(ctx, &mut x, 2, 8, 8, Pairing::Adjacent, &cos_sin);
            // Two products of rounded factors of at most 3, and a sum below 4: 2 * 2 * 3 u + 4 u.
            for head in x.chunks(8) {
                assert_close("rope", head, expected, 0.0, 16.0 * U);
            }
        }
    });
}

/// Attention whose K are the scores and whose V are unit vectors gives the weights.
#[test]
fn gpt2_attn_005_softmax() {
    covers!("GPT2-ATTN-005");
    let table = table("GPT2-ATTN-005");
    let scores = f32s(&vector(&table, "scores"));
    let rows = scores.len();
    let shape = KvShape { layers: 1, kv_heads: 1, head_dim: 8, block_size: 4, kv_type: KvType::F32 };
    let first = |x: f32| std::iter::once(x).chain([0.0; 7]);
    let k: Vec<f32> = scores.iter().flat_map(|score| first(*score)).collect();
    let v: Vec<f32> = (0..rows).flat_map(|t| (0..8).map(move |d| f32::from(u8::from(d == t)))).collect();
    let q: Vec<f32> = (0..rows).flat_map(|_| first(1.0)).collect();
    let batch = ForwardBatch {
        block_copies: vec![],
        token_ids: vec![0; rows],
        positions: (0..rows as u32).collect(),
        slot_mapping: (0..rows as u32).map(Slot).collect(),
        query_start_loc: vec![0, rows as u32],
        seq_lens: vec![rows as u32],
        block_tables: vec![BlockId(0), BlockId(1)],
        block_table_start: vec![0, 2],
        logits_rows: vec![],
    };
    for_each_path(|ctx| {
        let mut cache = KvCache::new(shape, 2).expect("it fits");
        write_kv(ctx, &mut cache, 0, &k, &v, &batch);
        let mut out = vec![0.0; rows * 8];
        let spec = AttentionSpec { scale: 1.0, window: None, soft_cap: None };
        paged_attention(ctx, &q, &cache, 0, &batch, spec, &mut out);
        // Two exponentials of 1.2e-7, a chain of six sums, a quotient and a product.
        let last = &out[(rows - 1) * 8..][..rows];
        assert_close("softmax", last, &vector(&table, "weights"), 2.0 * 1.2e-7 + 8.0 * U, 0.0);
        assert_eq!(out[..8], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], "the first row sees itself alone");
    });
}
