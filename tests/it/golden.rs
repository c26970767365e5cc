//! Logits and greedy tokens against references made elsewhere: a float64 forward pass in NumPy and llama.cpp.
//!
//! `tests/reference/README.md` says how the golden files are made, `specs/numerics-bounds.md` where the tolerances
//! come from. Errors are relative to the largest reference logit of the same position.

mod cases;
mod conformance;
mod traces;

use crate::support::isas;
use crate::support::run_model::{Built, Circumstances, load};
use cases::Case;
use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::kernels::Isa;
use llorch_cpud::kv_cache::KvType;
use llorch_cpud::model::{ForwardBatch, Model};
use llorch_cpud::quant::WeightType;
use llorch_cpud::types::{BlockId, Slot, TokenId};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What every F32 model must reach, whatever its depth and width.
const REQUIRED_F32: f64 = 1e-3;
const THREADS: usize = 2;
/// Neither a divisor nor a multiple of the attention tile.
const BLOCK_SIZE: usize = 24;

/// The tolerances of `specs/numerics-bounds.md`, from the model's width and depth.
struct Bounds {
    sums: f64,
    f16_kv: f64,
    bf16_kv: f64,
    q8_0_kv: f64,
    int8: f64,
    int8_in_256: f64,
    bf16: f64,
}

impl Bounds {
    fn of(width: usize, layers: usize) -> Self {
        let (width, layers) = (width as f64, layers as f64);
        Self {
            sums: 5.0 * 2f64.powi(-24) * width.sqrt() * (7.0 * layers + 1.0).sqrt(),
            f16_kv: 5.0 * 2f64.powi(-11) / 3f64.sqrt() * (2.0 * layers).sqrt(),
            bf16_kv: 5.0 * 2f64.powi(-8) / 3f64.sqrt() * (2.0 * layers).sqrt(),
            q8_0_kv: 5.0 * 6.8e-3 * (2.0 * layers).sqrt(),
            int8: 5.0 * 6.8e-3 * (4.0 * layers + 1.0).sqrt(),
            int8_in_256: 5.0 * 9.1e-3 * (4.0 * layers + 1.0).sqrt(),
            bf16: 5.0 * 2f64.powi(-8) / 3f64.sqrt() * (4.0 * layers + 1.0).sqrt(),
        }
    }

    /// The distance from exact arithmetic that a model of this kind may reach.
    fn total(&self, isa: Isa, weight_type: WeightType, kv_type: KvType) -> f64 {
        let kv = match kv_type {
            KvType::F32 => 0.0,
            KvType::F16 => self.f16_kv,
            KvType::BF16 => self.bf16_kv,
            KvType::Q8_0 => self.q8_0_kv,
        };
        let activations = match weight_type.block_len() {
            1 if rounds_to_bf16(isa, weight_type) => self.bf16,
            1 => 0.0,
            256 => self.int8_in_256,
            _ => self.int8,
        };
        self.sums + kv + activations
    }
}

/// MM-11: BF16 instructions take rounded activations.
fn rounds_to_bf16(isa: Isa, weight_type: WeightType) -> bool {
    weight_type == WeightType::BF16 && isa.has_bf16()
}

/// A golden file.
struct Golden(Value);

impl Golden {
    fn read(path: &str) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        Self(serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}")))
    }

    fn of(case: &Case) -> Self {
        Self::read(&format!("{}/tests/golden/{}.json", env!("CARGO_MANIFEST_DIR"), case.name))
    }

    fn tokens(value: &Value) -> Vec<TokenId> {
        let ids = value.as_array().expect("a list of token ids").iter();
        ids.map(|id| TokenId::try_from(id.as_u64().expect("a token id")).expect("a token id")).collect()
    }

    fn prompt(&self) -> Vec<TokenId> {
        Self::tokens(&self.0["prompt"])
    }

    /// `[T][V]` of the prompt.
    fn logits(&self, key: &str) -> Vec<Vec<f64>> {
        let rows = self.0[key].as_array().unwrap_or_else(|| panic!("no {key}"));
        rows.iter()
            .map(|row| row.as_array().expect("a row").iter().map(|x| x.as_f64().expect("f64")).collect())
            .collect()
    }
}

/// Logits of `tokens` as the positions from `start` on, `[T][V]`; positions before `start` are in the cache.
fn forward(built: &mut Built, start: usize, tokens: &[TokenId]) -> Vec<Vec<f32>> {
    let (first, end) = (start as u32, (start + tokens.len()) as u32);
    let blocks = end.div_ceil(built.kv_cache.block_size() as u32);
    let batch = ForwardBatch {
        block_copies: Vec::new(),
        token_ids: tokens.to_vec(),
        positions: (first..end).collect(),
        slot_mapping: (first..end).map(Slot).collect(),
        query_start_loc: vec![0, end - first],
        seq_lens: vec![end],
        block_tables: (0..blocks).map(BlockId).collect(),
        block_table_start: vec![0, blocks],
        logits_rows: (0..end - first).collect(),
    };
    let vocab = built.model.vocab_size();
    built.model.forward(&batch, &mut built.kv_cache).chunks_exact(vocab).map(<[f32]>::to_vec).collect()
}

fn load_case(bytes: Vec<u8>, kv_type: KvType, isa: Isa, max_len: usize) -> Built {
    let circumstances = Circumstances {
        isa,
        threads: THREADS,
        max_rows: max_len,
        max_logits_rows: max_len,
        num_blocks: max_len.div_ceil(BLOCK_SIZE),
        block_size: BLOCK_SIZE,
    };
    load(bytes, kv_type, circumstances)
}

/// The token that greedy decoding takes: the lowest id among the largest.
fn argmax<T: PartialOrd + Copy>(row: &[T]) -> TokenId {
    let best = (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    best as TokenId
}

/// Largest error of each row, relative to the row's largest reference logit.
fn row_errors(ours: &[Vec<f32>], reference: &[Vec<f64>]) -> Vec<f64> {
    assert_eq!(ours.len(), reference.len());
    let rows = ours.iter().zip(reference);
    rows.map(|(ours, reference)| {
        assert_eq!(ours.len(), reference.len());
        let largest = reference.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let errors = ours.iter().zip(reference).map(|(a, b)| (f64::from(*a) - b).abs());
        // `max` would pass over a NaN.
        errors.fold(0.0, |m: f64, e| if m.is_nan() || e <= m { m } else { e }) / largest
    })
    .collect()
}

fn assert_within(errors: &[f64], bound: f64, what: &str) {
    for (position, error) in errors.iter().enumerate() {
        assert!(*error <= bound, "{what}: position {position}: error {error:.3e}, the bound is {bound:.3e}");
    }
}

/// Half of the rows are within `bound`: those where no value fell on the other side of a rounding step.
fn assert_half_within(errors: &[f64], bound: f64, what: &str) {
    let within = errors.iter().filter(|e| **e <= bound).count();
    assert!(2 * within >= errors.len(), "{what}: {within} of {} rows within {bound:.3e}: {errors:?}", errors.len());
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Where the reference's best logit leads by more than twice the bound, ours is best too. Returns how many such rows.
fn assert_same_argmax(ours: &[Vec<f32>], reference: &[Vec<f64>], bound: f64, what: &str) -> usize {
    let mut clear = 0;
    for (position, (ours, reference)) in ours.iter().zip(reference).enumerate() {
        let best = argmax(reference) as usize;
        let largest = reference.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let others = reference.iter().enumerate().filter(|(i, _)| *i != best).map(|(_, x)| *x);
        let second = others.fold(f64::NEG_INFINITY, f64::max);
        if reference[best] - second > 2.0 * bound * largest {
            assert_eq!(argmax(ours) as usize, best, "{what}: position {position}");
            clear += 1;
        }
    }
    clear
}

/// Whether the inputs of the case's matmuls are rounded to int8.
fn is_integer(case: &Case) -> bool {
    case.model.weight_type.block_len() > 1
}

/// The bytes of the case's model, which must be those the golden file was made from.
fn model_bytes(case: &Case, golden: &Golden) -> Vec<u8> {
    let bytes = case.model.build();
    let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        Some(&digest[..]),
        golden.0["sha256"].as_str(),
        "{}: not the model of the golden file; see tests/reference/README.md",
        case.name
    );
    bytes
}

fn bounds_of(model: &TestModel) -> Bounds {
    Bounds::of(model.hidden.max(model.ffn).max(model.heads * model.head_dim), model.layers)
}

/// Every position of the case's prompt on one path with one type of cache. Returns the rows whose argmax was compared.
fn check_logits(case: &Case, golden: &Golden, isa: Isa, kv_type: KvType) -> usize {
    let what = format!("{} on {isa:?} with {kv_type:?} cache", case.name);
    let bounds = bounds_of(&case.model);
    let prompt = golden.prompt();
    let mut built = load_case(model_bytes(case, golden), kv_type, isa, prompt.len());
    let ours = forward(&mut built, 0, &prompt);
    let reference = golden.logits("logits");
    let total = bounds.total(isa, case.model.weight_type, kv_type);
    let errors = row_errors(&ours, &reference);
    assert_within(&errors, total, &what);
    match (is_integer(case), kv_type) {
        (true, KvType::F32) => {
            assert_half_within(&row_errors(&ours, &golden.logits("logits_int8")), bounds.sums, &what);
        }
        // No reference rounds as these do: the tests of `ops::attention` hold them to what is stored.
        (_, KvType::BF16 | KvType::Q8_0) | (true, KvType::F16) => {}
        _ if rounds_to_bf16(isa, case.model.weight_type) => {}
        (false, KvType::F16) => {
            assert_half_within(&row_errors(&ours, &golden.logits("logits_f16_kv")), bounds.sums, &what);
        }
        (false, KvType::F32) => assert_within(&errors, REQUIRED_F32, &what),
    }
    assert_same_argmax(&ours, &reference, total, &what)
}

#[test]
fn logits_of_every_position_follow_numpy() {
    for case in cases::all() {
        let golden = Golden::of(&case);
        for isa in isas() {
            for kv_type in KvType::ALL {
                let clear = check_logits(&case, &golden, isa, kv_type);
                // The coarser the cache, the fewer leads are clear.
                let coarse = is_integer(&case) || matches!(kv_type, KvType::BF16 | KvType::Q8_0);
                assert!(clear > 0 || coarse, "{}: no row with a clear best token", case.name);
            }
        }
    }
}

#[test]
fn greedy_tokens_are_those_of_numpy_and_llama_cpp() {
    for case in cases::all().into_iter().filter(|case| !is_integer(case)) {
        let golden = Golden::of(&case);
        let expected = Golden::tokens(&golden.0["greedy"]);
        assert_eq!(expected, Golden::tokens(&golden.0["llama_cpp"]["greedy"]), "{}: the references differ", case.name);
        for isa in isas().into_iter().filter(|isa| !rounds_to_bf16(*isa, case.model.weight_type)) {
            let prompt = golden.prompt();
            let max_len = prompt.len() + expected.len();
            let mut built = load_case(model_bytes(&case, &golden), KvType::F32, isa, max_len);
            assert_eq!(greedy(&mut built, &prompt, expected.len()), expected, "{} on {}", case.name, isa.name());
        }
    }
}

/// Prefills `prompt`, then takes the best token `count` times.
fn greedy(built: &mut Built, prompt: &[TokenId], count: usize) -> Vec<TokenId> {
    let mut rows = forward(built, 0, prompt);
    let mut chosen: Vec<TokenId> = Vec::new();
    loop {
        chosen.push(argmax(rows.last().expect("a row")));
        if chosen.len() == count {
            return chosen;
        }
        rows = forward(built, prompt.len() + chosen.len() - 1, &chosen[chosen.len() - 1..]);
    }
}

/// The checks see an error, a NaN and a wrong best token.
#[test]
fn the_comparisons_object() {
    let reference = vec![vec![1.0, -4.0, 2.0]];
    let errors = |row: [f32; 3]| row_errors(&[row.to_vec()], &reference);
    assert_eq!(errors([1.0, -4.0, 2.0]), [0.0]);
    assert_eq!(errors([1.0, -4.0, 3.0]), [0.25]);
    assert!(errors([f32::NAN, -4.0, 2.0])[0].is_nan() && errors([f32::NAN, -4.0, 2.5])[0].is_nan());
    let panics = |check: fn()| std::panic::catch_unwind(check).is_err();
    assert!(panics(|| assert_within(&[f64::NAN], 1.0, "")));
    assert!(panics(|| assert_within(&[0.2], 0.1, "")));
    assert!(panics(|| assert_half_within(&[0.2, 0.2, 0.05], 0.1, "")));
    assert!(panics(|| assert_eq!(assert_same_argmax(&[vec![1.0, 0.0]], &[vec![0.0, 1.0]], 0.1, ""), 1)));
    assert_eq!(assert_same_argmax(&[vec![1.0, 0.0]], &[vec![0.9, 1.0]], 0.1, ""), 0);
}
