//! A Llama forward pass in f64, written from the definition, as a reference that shares nothing with the engine but
//! the file. Every value of it is a checkpoint of `specs/08_TRACES.md`.

use super::PROMPT;
use llorch_cpud::gguf::ModelFile;
use llorch_cpud::trace::Trace;
use llorch_cpud::trace::index::{Entry, Index};
use llorch_cpud::trace::names::{Name, Shape};
use llorch_cpud::trace::npy::{Array, Values};
use std::collections::BTreeMap;

type Matrix = Vec<Vec<f64>>;

/// A model of F32 weights, its sizes read from the file.
pub struct Float64 {
    file: ModelFile,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    eps: f64,
    theta: f64,
}

/// `[T][…]` of each checkpoint.
type Values64 = BTreeMap<(usize, Name), Matrix>;

impl Float64 {
    pub fn new(bytes: Vec<u8>) -> Self {
        let file = ModelFile::from_bytes(bytes).expect("the built file parses");
        let number = |key: &str| file.metadata().require_u32(&format!("llama.{key}")).expect(key) as usize;
        let real = |key: &str| f64::from(file.metadata().require_f32(&format!("llama.{key}")).expect(key));
        Self {
            layers: number("block_count"),
            heads: number("attention.head_count"),
            kv_heads: number("attention.head_count_kv"),
            head_dim: number("rope.dimension_count"),
            eps: real("attention.layer_norm_rms_epsilon"),
            theta: real("rope.freq_base"),
            file,
        }
    }

    /// The rows of a matrix, or one row of a vector.
    fn weight(&self, name: &str) -> Matrix {
        let tensor = self.file.tensor(name).unwrap_or_else(|| panic!("no {name}"));
        let values = tensor.data.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        let values: Vec<f64> = values.collect();
        values.chunks_exact(tensor.dims[0] as usize).map(<[f64]>::to_vec).collect()
    }

    fn layer_weight(&self, layer: usize, name: &str) -> Matrix {
        self.weight(&format!("blk.{layer}.{name}.weight"))
    }

    fn norm(&self, x: &Matrix, weight: &str) -> Matrix {
        let weight = &self.weight(weight)[0];
        let of_row = |row: &Vec<f64>| {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
            row.iter().zip(weight).map(|(x, w)| x / (mean + self.eps).sqrt() * w).collect()
        };
        x.iter().map(of_row).collect()
    }

    /// Turns the pair (2i, 2i + 1) of each head of row `p` by `p / theta^(2i / d)`, as complex numbers.
    fn rotated(&self, x: &Matrix) -> Matrix {
        let d = self.head_dim;
        let mut x = x.clone();
        for (position, row) in x.iter_mut().enumerate() {
            for head in row.chunks_exact_mut(d) {
                for i in 0..d / 2 {
                    let angle = position as f64 / self.theta.powf(2.0 * i as f64 / d as f64);
                    let (re, im) = (head[2 * i], head[2 * i + 1]);
                    head[2 * i] = re * angle.cos() - im * angle.sin();
                    head[2 * i + 1] = re * angle.sin() + im * angle.cos();
                }
            }
        }
        x
    }

    /// Masked scores `[T][heads * T]`.
    fn scores(&self, q: &Matrix, k: &Matrix) -> Matrix {
        let (d, group) = (self.head_dim, self.heads / self.kv_heads);
        let score = |t: usize, head: usize, j: usize| {
            let q = &q[t][head * d..(head + 1) * d];
            let k = &k[j][head / group * d..(head / group + 1) * d];
            if j > t { f64::NEG_INFINITY } else { dot(q, k) / (d as f64).sqrt() }
        };
        let row = |t: usize| (0..self.heads * q.len()).map(move |i| score(t, i / q.len(), i % q.len())).collect();
        (0..q.len()).map(row).collect()
    }

    /// The weighted sums of `v`, `[T][heads * head_dim]`.
    fn attended(&self, scores: &Matrix, v: &Matrix) -> Matrix {
        let (d, group, t) = (self.head_dim, self.heads / self.kv_heads, v.len());
        let of_row = |scores: &Vec<f64>| {
            let of_head = |(head, scores): (usize, &[f64])| {
                let p = softmax(scores);
                let sum = move |i: usize| (0..t).map(|j| p[j] * v[j][head / group * d + i]).sum::<f64>();
                (0..d).map(sum).collect::<Vec<f64>>()
            };
            scores.chunks_exact(t).enumerate().flat_map(of_head).collect()
        };
        scores.iter().map(of_row).collect()
    }

    fn forward(&self, tokens: &[u32]) -> Values64 {
        let embedding = self.weight("token_embd.weight");
        let mut values = Values64::new();
        let mut x: Matrix = tokens.iter().map(|id| embedding[*id as usize].clone()).collect();
        for layer in 0..self.layers {
            let mut keep = |name: Name, value: &Matrix| values.insert((layer, name), value.clone());
            let h = self.norm(&x, &format!("blk.{layer}.attn_norm.weight"));
            keep(Name::AttnNorm, &h);
            let [q, k, v] = ["attn_q", "attn_k", "attn_v"].map(|name| times(&h, &self.layer_weight(layer, name)));
            let (q_rope, k_rope) = (self.rotated(&q), self.rotated(&k));
            let scores = self.scores(&q_rope, &k_rope);
            let out = times(&self.attended(&scores, &v), &self.layer_weight(layer, "attn_output"));
            for (name, value) in [
                (Name::Q, &q),
                (Name::K, &k),
                (Name::V, &v),
                (Name::QRope, &q_rope),
                (Name::KRope, &k_rope),
                (Name::KCache, &k_rope),
                (Name::VCache, &v),
                (Name::Scores, &scores),
                (Name::AttnOut, &out),
            ] {
                keep(name, value);
            }
            x = plus(&x, &out);
            let h = self.norm(&x, &format!("blk.{layer}.ffn_norm.weight"));
            let [gate, up] = ["ffn_gate", "ffn_up"].map(|name| times(&h, &self.layer_weight(layer, name)));
            let gated = |(gate, up): (&Vec<f64>, &Vec<f64>)| {
                gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
            };
            let hidden: Matrix = gate.iter().zip(&up).map(gated).collect();
            let out = times(&hidden, &self.layer_weight(layer, "ffn_down"));
            keep(Name::FfnOut, &out);
            x = plus(&x, &out);
            keep(Name::BlockOut, &x);
        }
        let head = if self.file.tensor("output.weight").is_some() { self.weight("output.weight") } else { embedding };
        values.insert((usize::MAX, Name::Logits), times(&self.norm(&x, "output_norm.weight"), &head));
        values
    }

    /// The trace of [`PROMPT`] and `count` greedy tokens.
    pub fn trace(&self, count: usize) -> Trace {
        let mut tokens = PROMPT.to_vec();
        for _ in 1..count {
            let values = self.forward(&tokens);
            tokens.push(argmax(&values[&(usize::MAX, Name::Logits)][tokens.len() - 1]));
        }
        let mut values = self.forward(&tokens);
        let selected = values[&(usize::MAX, Name::Logits)][PROMPT.len() - 1..].to_vec();
        let chosen: Vec<u32> = selected.iter().map(|row| argmax(row)).collect();
        values.insert((usize::MAX, Name::Probabilities), selected.iter().map(|row| softmax(row)).collect());
        values.insert((usize::MAX, Name::SelectedLogits), selected);
        let index = Index {
            producer: "float64".into(),
            architecture: "llama".into(),
            model: "test".into(),
            weights: "f32".into(),
            kv_type: "f32".into(),
            isa: None,
            prompt_tokens: PROMPT.into(),
            tokens: chosen.clone(),
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            rope: None,
            rope_local: None,
            local_layers: vec![],
            tensors: vec![],
        };
        let mut trace = Trace { index, arrays: vec![] };
        for ((layer, name), rows) in values {
            let width = rows[0].len();
            let t = rows.len();
            let shape = if name == Name::Scores { vec![t, width / t, t] } else { vec![t, width] };
            let flat = rows.concat().into_iter().map(|x| x as f32).collect();
            push(&mut trace, name, Some(layer).filter(|l| *l != usize::MAX), shape, Values::F32(flat));
        }
        let ids: Vec<i32> = chosen.iter().map(|id| *id as i32).collect();
        push(&mut trace, Name::Argmax, None, vec![count], Values::I32(ids.clone()));
        push(&mut trace, Name::Tokens, None, vec![count], Values::I32(ids));
        trace
    }
}

fn push(trace: &mut Trace, name: Name, layer: Option<usize>, shape: Vec<usize>, values: Values) {
    assert_eq!(name.shape() == Shape::Ids, matches!(values, Values::I32(_)));
    let file = format!("{}{}.npy", name.as_str(), layer.map_or(String::new(), |l| format!("-{l}")));
    let entry = Entry { file, name, layer, shape: shape.clone(), tolerance: None, tolerance_reason: None };
    trace.index.tensors.push(entry);
    trace.arrays.push(Array { shape, values });
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `x w^T`: `w` is `[N][K]`.
fn times(x: &Matrix, w: &Matrix) -> Matrix {
    x.iter().map(|row| w.iter().map(|w| dot(row, w)).collect()).collect()
}

fn plus(x: &Matrix, y: &Matrix) -> Matrix {
    x.iter().zip(y).map(|(x, y)| x.iter().zip(y).map(|(x, y)| x + y).collect()).collect()
}

fn softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
    let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
    row.iter().map(|x| (x - max).exp() / sum).collect()
}

fn argmax(row: &[f64]) -> u32 {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32
}
