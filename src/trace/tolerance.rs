//! What a checkpoint may differ by, relative to the largest magnitude of the reference's tensor.
//!
//! The base is the checkpoint's own figure, for f32 weights and an f32 cache on both sides. Other types add what they
//! round: `5 ε √n`, with ε and n of `specs/numerics-bounds.md`, n counting the roundings up to the checkpoint.

use super::index::{Index, IndexError};
use super::names::Name;
use crate::kv_cache::KvType;
use crate::quant::WeightType;

/// The factor of `specs/numerics-bounds.md`, "From a rounding to a logit".
const MARGIN: f64 = 5.0;
/// Deviation of a value rounded to an int8 step, in blocks of 32 and of 256.
const INT8: f64 = 6.8e-3;
const INT8_IN_256: f64 = 9.1e-3;

/// The tolerances of a comparison.
#[derive(Clone, Debug)]
pub struct Tolerances {
    layers: usize,
    sides: [Roundings; 2],
    scale: f64,
    exact_tokens: bool,
}

/// What one side rounds beside f32 sums: relative deviations.
#[derive(Clone, Copy, Debug)]
struct Roundings {
    activations: f64,
    kv: f64,
    /// The most that storing K or V changes it, relative to the largest.
    stored: f64,
}

impl Tolerances {
    /// `scale` multiplies every tolerance. The weights are those of one model: what `ours` says of them counts.
    pub fn of(ours: &Index, reference: &Index, scale: f64) -> Result<Self, IndexError> {
        let weights = weight_types(&ours.weights)?;
        let kv_types = [kv_type(ours)?, kv_type(reference)?];
        let side = |index: &Index, kv: KvType| Roundings {
            activations: weights.iter().map(|ty| activation_deviation(index, *ty)).fold(0.0, f64::max),
            kv: kv_deviation(kv),
            stored: kv_step(kv),
        };
        let f32_weights = weights.iter().all(|ty| *ty == WeightType::F32);
        Ok(Self {
            layers: ours.tensors.iter().filter_map(|entry| entry.layer).max().map_or(0, |last| last + 1),
            sides: [side(ours, kv_types[0]), side(reference, kv_types[1])],
            scale,
            exact_tokens: f32_weights && kv_types == [KvType::F32; 2],
        })
    }

    /// Whether tokens must be equal outright: f32 weights, and f32 caches on both sides.
    pub fn exact_tokens(&self) -> bool {
        self.exact_tokens
    }

    /// What every tolerance is multiplied by.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The tolerance of the values of `name` in `layer`.
    pub fn values(&self, name: Name, layer: Option<usize>) -> f64 {
        let depth = layer.unwrap_or(0);
        let base = base(name) * ((depth + 1) as f64).sqrt();
        let (activations, kv) = self.roundings_before(name, depth);
        let stored = matches!(name, Name::KCache | Name::VCache);
        let side = |side: &Roundings| {
            let rounded = MARGIN * (side.activations * activations.sqrt() + side.kv * kv.sqrt());
            rounded + if stored { side.stored } else { 0.0 }
        };
        self.scale * (base + self.sides.iter().map(side).sum::<f64>())
    }

    /// The tolerance of a rotation applied to given values.
    pub fn rotation(&self) -> f64 {
        self.scale * 1e-5
    }

    /// The tolerance of a softmax of given logits.
    pub fn probabilities(&self) -> f64 {
        self.scale * 1e-6
    }

    /// How far storing as Q8_0 changes K or V, relative to the largest.
    pub fn q8_0_step() -> f64 {
        kv_step(KvType::Q8_0)
    }

    /// How many roundings of activations and of K and V lie before `name` in layer `depth`.
    fn roundings_before(&self, name: Name, depth: usize) -> (f64, f64) {
        let (in_layer, kv) = match name {
            Name::AttnNorm => (0, 0),
            Name::Q | Name::K | Name::V | Name::QNorm | Name::KNorm => (1, 0),
            Name::QRope | Name::KRope | Name::KCache | Name::VCache => (1, 0),
            Name::Scores => (1, 1),
            Name::AttnOut => (2, 2),
            Name::FfnOut | Name::BlockOut => (4, 2),
            _ => return ((4 * self.layers + 1) as f64, (2 * self.layers) as f64),
        };
        ((4 * depth + in_layer) as f64, (2 * depth + kv) as f64)
    }
}

/// The checkpoint's own tolerance at layer 0; 0 where equality is asked for.
pub fn base(name: Name) -> f64 {
    match name {
        Name::AttnNorm => 1e-5,
        Name::Logits | Name::SelectedLogits => 1e-3,
        Name::Probabilities => 1e-6,
        Name::Argmax | Name::Tokens => 0.0,
        _ => 1e-4,
    }
}

/// The types of a label such as `q4_k+q6_k`.
fn weight_types(label: &str) -> Result<Vec<WeightType>, IndexError> {
    let find = |name: &str| WeightType::ALL.into_iter().find(|ty| ty.to_string().eq_ignore_ascii_case(name));
    let types: Option<Vec<WeightType>> = label.split('+').map(find).collect();
    types.ok_or_else(|| IndexError::Key { key: format!("weights {label:?}"), problem: "names an unknown type" })
}

fn kv_type(index: &Index) -> Result<KvType, IndexError> {
    let problem = "is none of f16, bf16, f32, q8_0";
    index.kv_type.parse().map_err(|_| IndexError::Key { key: format!("kv_type {:?}", index.kv_type), problem })
}

/// What the inputs of a product with weights of this type are rounded by. llama.cpp rounds them to the type of the
/// weights, or to int8; a path of ours to int8, or to bf16 by BF16 instructions; references in f32 or f64 not at all.
fn activation_deviation(index: &Index, ty: WeightType) -> f64 {
    let llama_cpp = index.producer.starts_with("llama.cpp");
    let bf16_instructions = index.isa.as_deref() == Some("avx512");
    match (ty, ty.block_len()) {
        _ if !llama_cpp && index.isa.is_none() => 0.0,
        (WeightType::F16, _) if llama_cpp => deviation_of_bits(11),
        (WeightType::BF16, _) if llama_cpp || bf16_instructions => deviation_of_bits(8),
        (_, 1) => 0.0,
        (_, 256) => INT8_IN_256,
        _ => INT8,
    }
}

fn kv_deviation(kv: KvType) -> f64 {
    match kv {
        KvType::F32 => 0.0,
        KvType::F16 => deviation_of_bits(11),
        KvType::BF16 => deviation_of_bits(8),
        KvType::Q8_0 => INT8,
    }
}

/// Half a step of the largest value. Q8_0: half of 1/127, and 127 steps that are each off by the rounding of the scale
/// to f16.
fn kv_step(kv: KvType) -> f64 {
    match kv {
        KvType::F32 => 0.0,
        KvType::F16 => 2f64.powi(-11),
        KvType::BF16 => 2f64.powi(-8),
        KvType::Q8_0 => 0.5 / 127.0 + 2f64.powi(-11),
    }
}

/// Rounding to so many significant bits is uniform within half a step either way.
fn deviation_of_bits(bits: i32) -> f64 {
    2f64.powi(-bits) / 3f64.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_of_other_types_have_the_bounds_of_the_published_table() {
        // `specs/numerics-bounds.md`, "Values", test shapes (2 layers): f16, bf16 and q8_0 KV, int8.
        let tolerances = |activations: f64, kv: f64| Tolerances {
            layers: 2,
            sides: [Roundings { activations, kv, stored: 0.0 }, Roundings { activations: 0.0, kv: 0.0, stored: 0.0 }],
            scale: 1.0,
            exact_tokens: false,
        };
        for (activations, kv, expected) in [
            (0.0, kv_deviation(KvType::F16), 2.8e-3),
            (0.0, kv_deviation(KvType::BF16), 2.3e-2),
            (0.0, kv_deviation(KvType::Q8_0), 6.8e-2),
            (INT8, 0.0, 0.10),
        ] {
            let extra = tolerances(activations, kv).values(Name::Logits, None) - 1e-3;
            assert!((extra / expected - 1.0).abs() < 0.03, "{activations} {kv}: {extra}, {expected} in the table");
        }
    }

    #[test]
    fn labels_of_weights() {
        assert_eq!(weight_types("q4_k+Q6_K"), Ok(vec![WeightType::Q4K, WeightType::Q6K]));
        for bad in ["", "f33", "f32+"] {
            assert!(weight_types(bad).is_err(), "{bad}");
        }
    }
}
