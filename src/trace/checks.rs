//! The check of each tensor.

use super::comparison::{Row, Verdict};
use super::figures::{Figures, Masked, argmax, figures, is_clear, softmax_rows};
use super::index::Entry;
use super::names::{Name, Shape};
use super::rotation::rotate;
use super::tolerance::Tolerances;
use super::{Source, TraceError};
use crate::kv_cache::KvType;
use crate::ops::pool::Pool;
use half::{bf16, f16};

type Result<T> = std::result::Result<T, TraceError>;

/// Two traces of one prompt.
pub struct Pair<'a> {
    ours: &'a Source<'a>,
    reference: &'a Source<'a>,
    tolerances: Tolerances,
    /// Positions whose inputs are the same tokens on both sides.
    positions: usize,
    /// Rows of logits that chose a token, of these positions.
    selected: usize,
    pool: Pool,
}

impl<'a> Pair<'a> {
    pub fn new(ours: &'a Source<'a>, reference: &'a Source<'a>, tolerances: Tolerances) -> Result<Self> {
        let (a, b) = (&ours.index.tokens, &reference.index.tokens);
        // The last generated token is no input.
        let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let inputs = same.min(a.len() - 1).min(b.len() - 1);
        let pool = Pool::new(1).map_err(|e| TraceError::Pool(e.to_string()))?;
        let positions = ours.index.prompt_tokens.len() + inputs;
        Ok(Self { ours, reference, tolerances, positions, selected: inputs + 1, pool })
    }

    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Appends the checks of a tensor that one side has at least.
    pub fn check(&self, name: Name, layer: Option<usize>, rows: &mut Vec<Row>) -> Result<()> {
        let (ours, reference) = (self.ours.index.find(name, layer), self.reference.index.find(name, layer));
        match (ours, reference) {
            (Some(ours), Some(reference)) => rows.push(self.both(ours, reference)?),
            (None, _) => rows.push(Row::plain(name, layer, "values", Verdict::Fail, "missing in ours".into())),
            (Some(_), None) => {
                rows.push(Row::plain(name, layer, "values", Verdict::Absent, "not in the reference".into()));
            }
        }
        if let Some(ours) = ours {
            rows.extend(self.own(ours)?);
        }
        Ok(())
    }

    /// Ours against the reference.
    fn both(&self, ours: &Entry, reference: &Entry) -> Result<Row> {
        let (name, layer) = (ours.name, ours.layer);
        let width = |entry: &Entry| entry.shape.get(1).copied();
        if width(ours) != width(reference) {
            let note = format!("shape {:?}, {:?} in the reference", ours.shape, reference.shape);
            return Ok(Row { compared: true, ..Row::plain(name, layer, "shape", Verdict::Fail, note) });
        }
        let row = match name {
            Name::QRope | Name::KRope if self.rotates(layer) => {
                let relative = self.tolerances.rotation();
                self.rotation(self.reference, reference, "the reference's own, rotated", relative)?
            }
            Name::Probabilities => {
                let relative = self.tolerances.probabilities();
                self.softmax(self.reference, reference, "softmax of the reference's", relative)?
            }
            Name::Argmax | Name::Tokens => self.ids(ours, reference)?,
            _ => {
                let masked = if name == Name::Scores { Masked::Infinite } else { Masked::Never };
                let (a, b) = (self.common(self.ours, ours)?, self.common(self.reference, reference)?);
                let relative = self.relative(reference, self.tolerances.values(name, layer));
                self.row(reference, "values", figures(&a, &b, relative, masked))
            }
        };
        Ok(Row { compared: row.verdict != Verdict::Absent, ..row })
    }

    /// What must hold within our trace.
    fn own(&self, ours: &Entry) -> Result<Option<Row>> {
        Ok(Some(match ours.name {
            Name::QRope | Name::KRope if self.rotates(ours.layer) => {
                self.rotation(self.ours, ours, "our own, rotated", self.tolerances.rotation())?
            }
            Name::KCache | Name::VCache => self.stored(ours)?,
            Name::SelectedLogits => self.selection(ours)?,
            Name::Argmax | Name::Tokens => self.own_ids(ours)?,
            Name::Probabilities => self.softmax(self.ours, ours, "softmax of ours", self.tolerances.probabilities())?,
            _ => return Ok(None),
        }))
    }

    fn rotates(&self, layer: Option<usize>) -> bool {
        layer.is_some_and(|layer| self.ours.index.rope_of(layer).is_some())
    }

    /// A reference may widen a tolerance where it says why.
    fn relative(&self, reference: &Entry, standard: f64) -> f64 {
        match (&reference.tolerance_reason, reference.tolerance) {
            (Some(_), Some(stated)) => standard.max(stated * self.tolerances.scale()),
            _ => standard,
        }
    }

    /// The values of an f32 tensor at the positions in common.
    fn common(&self, side: &Source<'_>, entry: &Entry) -> Result<Vec<f32>> {
        let mut values = side.f32s(entry)?;
        let row: usize = entry.shape[1..].iter().product();
        values.truncate(self.rows_of(entry) * row);
        if let (Name::Scores, [all, ..]) = (entry.name, &entry.shape[..]) {
            // Of each row and head the positions in common.
            values = values.chunks_exact(*all).flat_map(|scores| &scores[..self.positions]).copied().collect();
        }
        Ok(values)
    }

    /// Rows of a tensor that are compared.
    fn rows_of(&self, entry: &Entry) -> usize {
        match entry.name.shape() {
            Shape::Selected | Shape::Ids => self.selected,
            _ => self.positions,
        }
    }

    /// The row of figures of `entry`.
    fn row(&self, entry: &Entry, check: &'static str, figures: Figures) -> Row {
        let mut shape = entry.shape.clone();
        if let (Name::Scores, Some(last)) = (entry.name, shape.last_mut()) {
            *last = self.positions;
        }
        let verdict = if figures.first.is_none() { Verdict::Pass } else { Verdict::Fail };
        let note = entry.tolerance_reason.clone().unwrap_or_default();
        let first = figures.first.map(|at| indices(at, &shape));
        Row { first, figures: Some(figures), ..Row::plain(entry.name, entry.layer, check, verdict, note) }
    }

    /// A side's Q or K, normed where it is, rotated as our index says, against the side's rotated one.
    fn rotation(&self, side: &Source<'_>, rotated: &Entry, check: &'static str, relative: f64) -> Result<Row> {
        let sources = if rotated.name == Name::QRope { [Name::QNorm, Name::Q] } else { [Name::KNorm, Name::K] };
        let source = sources.into_iter().find_map(|name| side.index.find(name, rotated.layer));
        let rope = rotated.layer.and_then(|layer| self.ours.index.rope_of(layer));
        let (Some(source), Some(rope)) = (source, rope) else {
            let note = "there is nothing to rotate".to_owned();
            return Ok(Row::plain(rotated.name, rotated.layer, check, Verdict::Absent, note));
        };
        let head_dim = self.ours.index.head_dim;
        if source.shape != rotated.shape || !rotated.shape[1].is_multiple_of(head_dim) {
            let note = format!("shape {:?}, {:?} before rotation", rotated.shape, source.shape);
            return Ok(Row::plain(rotated.name, rotated.layer, check, Verdict::Fail, note));
        }
        let expected = rotate(&self.pool, rope, head_dim, self.common(side, source)?, self.positions);
        let relative = self.relative(rotated, relative);
        Ok(self.row(rotated, check, figures(&expected, &self.common(side, rotated)?, relative, Masked::Never)))
    }

    /// Our K or V as read from the cache, against what was written, rounded to the cache's type.
    fn stored(&self, cached: &Entry) -> Result<Row> {
        let sources: &[Name] =
            if cached.name == Name::KCache { &[Name::KRope, Name::KNorm, Name::K] } else { &[Name::V] };
        let source = sources.iter().find_map(|name| self.ours.index.find(*name, cached.layer));
        let check = "ours, as stored";
        let Some(source) = source.filter(|source| source.shape == cached.shape) else {
            let note = "what was written is missing".to_owned();
            return Ok(Row::plain(cached.name, cached.layer, check, Verdict::Fail, note));
        };
        let written = self.common(self.ours, source)?;
        let (written, relative): (Vec<f32>, f64) = match self.ours.index.kv_type.parse() {
            Ok(KvType::F16) => (written.iter().map(|x| f16::from_f32(*x).to_f32()).collect(), 0.0),
            Ok(KvType::BF16) => (written.iter().map(|x| bf16::from_f32(*x).to_f32()).collect(), 0.0),
            Ok(KvType::Q8_0) => (written, Tolerances::q8_0_step()),
            Ok(KvType::F32) | Err(_) => (written, 0.0),
        };
        let cached_values = self.common(self.ours, cached)?;
        Ok(self.row(cached, check, figures(&cached_values, &written, relative, Masked::Never)))
    }

    /// Our selected rows are those rows of our logits that chose the tokens, bit for bit.
    fn selection(&self, selected: &Entry) -> Result<Row> {
        let check = "our rows of logits";
        let logits = self.ours.index.find(Name::Logits, None).filter(|logits| logits.shape[1] == selected.shape[1]);
        let Some(logits) = logits else {
            let note = "there are no such logits".to_owned();
            return Ok(Row::plain(selected.name, None, check, Verdict::Fail, note));
        };
        let values = self.common(self.ours, logits)?;
        let first = (self.ours.index.prompt_tokens.len() - 1) * logits.shape[1];
        let rows = &values[first..];
        Ok(self.row(selected, check, figures(&self.common(self.ours, selected)?, rows, 0.0, Masked::Never)))
    }

    /// A side's probabilities against the softmax, as we compute it, of its own logits.
    fn softmax(&self, side: &Source<'_>, entry: &Entry, check: &'static str, relative: f64) -> Result<Row> {
        let logits = side.index.find(Name::SelectedLogits, None).filter(|logits| logits.shape == entry.shape);
        let Some(logits) = logits else {
            let note = "there are no logits to take it of".to_owned();
            return Ok(Row::plain(entry.name, None, check, Verdict::Absent, note));
        };
        let expected = softmax_rows(&self.common(side, logits)?, entry.shape[1]);
        let relative = self.relative(entry, relative);
        Ok(self.row(entry, check, figures(&expected, &self.common(side, entry)?, relative, Masked::Never)))
    }

    /// Our ids against the reference's: equal, or, where types round, equal wherever the reference's lead is clear.
    fn ids(&self, ours: &Entry, reference: &Entry) -> Result<Row> {
        let (a, b) = (self.ours.i32s(ours)?, self.reference.i32s(reference)?);
        let differing: Vec<usize> = (0..self.selected).filter(|i| a.get(*i) != b.get(*i)).collect();
        let wrong = match differing.first() {
            Some(_) if !self.tolerances.exact_tokens() => self.clear_rows(&differing)?,
            first => first.copied(),
        };
        let verdict = if wrong.is_none() { Verdict::Pass } else { Verdict::Fail };
        let check = if self.tolerances.exact_tokens() { "equal" } else { "equal where clear" };
        let note = match differing.len() {
            0 => String::new(),
            n => format!("{n} of {} differ", self.selected),
        };
        Ok(Row { first: wrong.map(|i| vec![i]), ..Row::plain(ours.name, None, check, verdict, note) })
    }

    /// The first of `rows` in which the reference's largest logit leads by more than twice the bound.
    fn clear_rows(&self, rows: &[usize]) -> Result<Option<usize>> {
        let Some(entry) = self.reference.index.find(Name::SelectedLogits, None) else {
            return Ok(rows.first().copied());
        };
        let logits = self.common(self.reference, entry)?;
        let bound = self.relative(entry, self.tolerances.values(Name::Logits, None));
        let clear = |row: &usize| is_clear(&logits[row * entry.shape[1]..][..entry.shape[1]], bound);
        Ok(rows.iter().copied().find(clear))
    }

    /// Our argmax is that of our logits; our tokens are our argmax, and those of the index.
    fn own_ids(&self, ours: &Entry) -> Result<Row> {
        let ids = self.ours.i32s(ours)?;
        let (check, expected): (_, Vec<Option<i32>>) = if ours.name == Name::Tokens {
            let largest = self.ours.index.find(Name::Argmax, None);
            let largest = largest.map_or(Ok(Vec::new()), |entry| self.ours.i32s(entry))?;
            let named = self.ours.index.tokens.iter().map(|id| *id as i32);
            ("our argmax", largest.iter().zip(named).map(|(a, b)| (*a == b).then_some(b)).collect())
        } else {
            let entry = self.ours.index.find(Name::SelectedLogits, None);
            let logits = entry.map_or(Ok(Vec::new()), |entry| self.ours.f32s(entry))?;
            let width = entry.map_or(1, |entry| entry.shape[1]);
            ("largest of our logits", logits.chunks_exact(width).map(|row| argmax(row).map(|i| i as i32)).collect())
        };
        let wrong = (0..ids.len()).find(|i| expected.get(*i).copied().flatten() != Some(ids[*i]));
        let verdict = if wrong.is_none() { Verdict::Pass } else { Verdict::Fail };
        Ok(Row { first: wrong.map(|i| vec![i]), ..Row::plain(ours.name, None, check, verdict, String::new()) })
    }
}

/// The indices of element `at` of an array.
fn indices(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut indices = vec![0; shape.len()];
    for (index, n) in indices.iter_mut().zip(shape).rev() {
        *index = at % n;
        at /= n;
    }
    indices
}
