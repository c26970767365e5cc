//! Takes the checkpoints of one sequence out of the steps it is in.
//!
//! Rows are filed by their position, so that it does not matter how the sequence was cut into steps, or that it was
//! preempted and computed again: the bits are the same (LAW-1).

use super::figures::{argmax, softmax_rows};
use super::index::{Entry, Index};
use super::names::{Name, Shape};
use super::npy::{Array, Values};
use super::{Trace, tolerance};
use crate::model::observer::{AttentionView, Observer, Point};
use crate::ops::attention;
use crate::types::{ForwardBatch, TokenId};
use std::collections::BTreeMap;
use std::ops::Range;

/// Who made the traces of this build.
pub const PRODUCER: &str = concat!("llorch-cpud ", env!("CARGO_PKG_VERSION"));

/// The place of what has no layer: behind all that have one.
const NO_LAYER: usize = usize::MAX;

/// A sequence that was not observed from its beginning to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("no token was generated")]
    NoTokens,
    #[error("{name} has {rows} rows, {expected} positions were computed")]
    Rows { name: String, rows: usize, expected: usize },
    #[error("the logits of position {0} are NaN")]
    Nan(usize),
}

/// An [`Observer`] that keeps everything in memory: about `T * heads * T` scores a layer, and `T * vocab` logits.
#[derive(Default)]
pub struct Recorder {
    vocab_size: usize,
    /// Row `t` is position `t`.
    tensors: BTreeMap<(usize, Name), Vec<Vec<f32>>>,
    tokens: Vec<TokenId>,
    step: Step,
}

/// The step that is being observed.
#[derive(Default)]
struct Step {
    sequence: usize,
    /// Rows of the observed sequence.
    rows: Range<usize>,
    /// Their positions.
    positions: Vec<usize>,
    /// Rows of the step.
    all_rows: usize,
    /// Rows whose logits were shown.
    logits: usize,
}

impl Recorder {
    pub fn new(vocab_size: usize) -> Self {
        Self { vocab_size, ..Self::default() }
    }

    fn put(&mut self, name: Name, layer: usize, position: usize, row: Vec<f32>) {
        let rows = self.tensors.entry((layer, name)).or_default();
        if rows.len() <= position {
            rows.resize(position + 1, Vec::new());
        }
        rows[position] = row;
    }

    /// The trace of the sequence. `description` says what was run; its tokens and tensors are filled in.
    pub fn finish(self, mut description: Index) -> Result<Trace, RecordError> {
        if self.tokens.is_empty() {
            return Err(RecordError::NoTokens);
        }
        description.tokens.clone_from(&self.tokens);
        let mut trace = Trace { index: description, arrays: Vec::new() };
        let positions = trace.index.positions();
        let selected = trace.index.prompt_tokens.len() - 1..positions;
        let mut selected_logits = Vec::new();
        for ((layer, name), rows) in self.tensors {
            let short = rows.iter().filter(|row| row.is_empty()).count();
            if rows.len() != positions || short > 0 {
                let (name, rows) = (name.as_str().to_owned(), rows.len() - short);
                return Err(RecordError::Rows { name, rows, expected: positions });
            }
            if name == Name::Logits {
                selected_logits = rows[selected.clone()].concat();
            }
            let (shape, values) =
                if name == Name::Scores { square(&rows) } else { (vec![rows[0].len()], rows.concat()) };
            let shape = [&[positions], &shape[..]].concat();
            trace.push(name, (layer != NO_LAYER).then_some(layer), shape, Values::F32(values));
        }
        let count = self.tokens.len();
        if selected_logits.len() != count * self.vocab_size {
            let rows = selected_logits.len() / self.vocab_size.max(1);
            return Err(RecordError::Rows { name: "selected_logits".into(), rows, expected: count });
        }
        let largest = selected_logits.chunks_exact(self.vocab_size).enumerate();
        let largest =
            largest.map(|(i, row)| argmax(row).map(|id| id as i32).ok_or(RecordError::Nan(selected.start + i)));
        let largest: Vec<i32> = largest.collect::<Result<_, _>>()?;
        let probabilities = softmax_rows(&selected_logits, self.vocab_size);
        let shape = vec![count, self.vocab_size];
        trace.push(Name::SelectedLogits, None, shape.clone(), Values::F32(selected_logits));
        trace.push(Name::Argmax, None, vec![count], Values::I32(largest));
        trace.push(Name::Probabilities, None, shape, Values::F32(probabilities));
        let ids = self.tokens.iter().map(|id| *id as i32).collect();
        trace.push(Name::Tokens, None, vec![count], Values::I32(ids));
        Ok(trace)
    }
}

impl Trace {
    fn push(&mut self, name: Name, layer: Option<usize>, shape: Vec<usize>, values: Values) {
        let tolerance = tolerance::base(name) * (layer.map_or(1, |layer| layer + 1) as f64).sqrt();
        let tolerance = (name.shape() != Shape::Ids).then_some(tolerance);
        let file = name.file(layer);
        self.index.tensors.push(Entry { file, name, layer, shape: shape.clone(), tolerance, tolerance_reason: None });
        self.arrays.push(Array { shape, values });
    }
}

/// `[heads, T]` of each row and its values; row `t` is given as `[heads, t + 1]`, and what it lacks is masked.
fn square(rows: &[Vec<f32>]) -> (Vec<usize>, Vec<f32>) {
    let positions = rows.len();
    let heads = rows[0].len();
    let mut values = Vec::with_capacity(positions * heads * positions);
    for (position, row) in rows.iter().enumerate() {
        for scores in row.chunks_exact(position + 1) {
            values.extend_from_slice(scores);
            values.extend(std::iter::repeat_n(f32::NEG_INFINITY, positions - scores.len()));
        }
    }
    (vec![heads, positions], values)
}

fn name_of(point: Point) -> Name {
    match point {
        Point::AttnNorm => Name::AttnNorm,
        Point::Q => Name::Q,
        Point::K => Name::K,
        Point::V => Name::V,
        Point::QNorm => Name::QNorm,
        Point::KNorm => Name::KNorm,
        Point::QRope => Name::QRope,
        Point::KRope => Name::KRope,
        Point::AttnOut => Name::AttnOut,
        Point::FfnOut => Name::FfnOut,
        Point::BlockOut => Name::BlockOut,
        Point::Logits => Name::Logits,
    }
}

impl Observer for Recorder {
    fn begin_step(&mut self, sequence: usize, rows: Range<usize>, batch: &ForwardBatch) {
        let positions = batch.positions[rows.clone()].iter().map(|p| *p as usize).collect();
        self.step = Step { sequence, rows, positions, all_rows: batch.num_rows(), logits: 0 };
    }

    fn rows(&mut self, point: Point, layer: usize, values: &[f32]) {
        if point == Point::Logits {
            for row in values.chunks_exact(self.vocab_size) {
                let position = self.step.positions[self.step.logits];
                self.step.logits += 1;
                self.put(Name::Logits, NO_LAYER, position, row.to_vec());
            }
            return;
        }
        let width = values.len() / self.step.all_rows;
        let rows = &values[self.step.rows.start * width..self.step.rows.end * width];
        for (i, row) in rows.chunks_exact(width).enumerate() {
            self.put(name_of(point), layer, self.step.positions[i], row.to_vec());
        }
    }

    fn attention(&mut self, view: &AttentionView<'_>) {
        let sequence = self.step.sequence;
        let scores = attention::scores(view.kv_cache, view.layer, view.batch, sequence, view.q, &view.spec);
        let rows = self.step.rows.clone();
        let (k, v) = attention::cached_rows(view.kv_cache, view.layer, view.batch, sequence, rows);
        let width = k.len() / self.step.positions.len();
        for (i, row) in scores.into_iter().enumerate() {
            let (position, at) = (self.step.positions[i], i * width..(i + 1) * width);
            self.put(Name::Scores, view.layer, position, row);
            self.put(Name::KCache, view.layer, position, k[at.clone()].to_vec());
            self.put(Name::VCache, view.layer, position, v[at].to_vec());
        }
    }

    fn sampled(&mut self, token: TokenId) {
        self.tokens.push(token);
    }
}
