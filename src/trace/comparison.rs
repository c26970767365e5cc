//! Two traces side by side: which checks are made, in the order of the pipeline.
//!
//! A row is one check of one tensor. The first row that fails names the earliest place where the two runs part, since
//! every later value depends on it.

use super::checks::Pair;
use super::figures::Figures;
use super::names::Name;
use super::tolerance::Tolerances;
use super::{Source, TraceError};
use std::collections::BTreeSet;

/// Architectures whose blocks have no norm before attention.
const WITHOUT_ATTN_NORM: [&str; 1] = ["olmo2"];

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: Name,
    pub layer: Option<usize>,
    /// What was compared with what.
    pub check: &'static str,
    /// None where there is no distance: tokens, and tensors that are missing or of another shape.
    pub figures: Option<Figures>,
    /// Indices of the first element at fault.
    pub first: Option<Vec<usize>>,
    pub verdict: Verdict,
    /// Both sides took part.
    pub compared: bool,
    pub note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Fail,
    /// Nothing to compare with in the reference.
    Absent,
}

impl Row {
    /// A check without figures.
    pub(super) fn plain(name: Name, layer: Option<usize>, check: &'static str, verdict: Verdict, note: String) -> Self {
        Self { name, layer, check, figures: None, first: None, verdict, compared: false, note }
    }

    /// How failures name the place.
    pub fn place(&self) -> String {
        let layer = self.layer.map_or(String::new(), |layer| format!(", layer {layer}"));
        format!("checkpoint {} ({}{layer})", self.name.checkpoint(), self.name.as_str())
    }
}

/// All checks, in the order of the pipeline.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub rows: Vec<Row>,
    /// Positions with the same input on both sides, of those that ours has: the others are not compared.
    pub positions: usize,
}

impl Comparison {
    /// The earliest failure.
    pub fn first_failure(&self) -> Option<&Row> {
        self.rows.iter().find(|row| row.verdict == Verdict::Fail)
    }
}

/// Compares `ours` with `reference`; `scale` multiplies every tolerance.
///
/// # Errors
/// A tensor that cannot be read or is not what its index says; traces of different prompts.
pub fn compare(ours: &Source<'_>, reference: &Source<'_>, scale: f64) -> Result<Comparison, TraceError> {
    if ours.index.prompt_tokens != reference.index.prompt_tokens {
        let (ours, reference) = (ours.index.prompt_tokens.clone(), reference.index.prompt_tokens.clone());
        return Err(TraceError::Prompts { ours, reference });
    }
    let tolerances = Tolerances::of(ours.index, reference.index, scale)?;
    let pair = Pair::new(ours, reference, tolerances)?;
    let mut rows = Vec::new();
    for (name, layer) in union(ours, reference) {
        pair.check(name, layer, &mut rows)?;
    }
    rows.extend(not_covered(ours, reference, &rows));
    rows.sort_by_key(place_in_pipeline);
    Ok(Comparison { rows, positions: pair.positions() })
}

/// What either side has, each once.
fn union(ours: &Source<'_>, reference: &Source<'_>) -> BTreeSet<(Name, Option<usize>)> {
    let entries = ours.index.tensors.iter().chain(&reference.index.tensors);
    entries.map(|entry| (entry.name, entry.layer)).collect()
}

/// Layer by layer, then what has none.
fn place_in_pipeline(row: &Row) -> (usize, Name) {
    (row.layer.unwrap_or(usize::MAX), row.name)
}

/// A failure for each checkpoint of which no tensor was compared, unless the architecture has none. The rotation counts
/// by itself.
fn not_covered(ours: &Source<'_>, reference: &Source<'_>, rows: &[Row]) -> Vec<Row> {
    let covered = |wanted: &dyn Fn(Name) -> bool| rows.iter().any(|row| row.compared && wanted(row.name));
    let present = |wanted: &dyn Fn(Name) -> bool| union(ours, reference).iter().any(|(name, _)| wanted(*name));
    let mut missing = Vec::new();
    let mut miss = |name: Name| {
        let layer = name.is_of_a_layer().then_some(0);
        let note = format!("no tensor of checkpoint {} in common", name.checkpoint());
        missing.push(Row::plain(name, layer, "in common", Verdict::Fail, note));
    };
    for checkpoint in 1..=12 {
        let of_it = |name: Name| name.checkpoint() == checkpoint;
        let excused =
            checkpoint == 1 && WITHOUT_ATTN_NORM.contains(&ours.index.architecture.as_str()) && !present(&of_it);
        if let Some(name) = Name::ALL.into_iter().find(|name| of_it(*name))
            && !covered(&of_it)
            && !excused
        {
            miss(name);
        }
    }
    let rotated = |name: Name| matches!(name, Name::QRope | Name::KRope);
    if (ours.index.rope.is_some() || present(&rotated)) && !covered(&rotated) {
        miss(Name::QRope);
    }
    missing
}
