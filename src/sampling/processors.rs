//! Logits processors that change values: masks, biases, penalties. In place, each in f32.

use super::sampler::{Row, Scratch};
use crate::types::TokenId;

/// Whether the row's parameters leave the logits as they are.
pub fn change_nothing(row: &Row) -> bool {
    let p = &row.params.sampling;
    !suppresses_stops(row)
        && p.logit_bias.is_empty()
        && p.repetition_penalty == 1.0
        && p.presence_penalty == 0.0
        && p.frequency_penalty == 0.0
}

/// Copies the row's logits to `scratch.logits` and applies every processor, in the order of SMP-2.
pub fn apply(row: &Row, scratch: &mut Scratch) {
    scratch.logits.clear();
    scratch.logits.extend_from_slice(row.logits);
    suppress_stops(row, &mut scratch.logits);
    add_bias(row, &mut scratch.logits);
    scratch.counts.resize(row.logits.len(), 0);
    penalize_repetition(row, scratch);
    penalize_presence_and_frequency(row, scratch);
}

fn suppresses_stops(row: &Row) -> bool {
    row.num_generated() < row.params.stopping.min_tokens as usize
}

/// Before `min_tokens` are generated, nothing that would end the sequence is sampled.
fn suppress_stops(row: &Row, logits: &mut [f32]) {
    if !suppresses_stops(row) {
        return;
    }
    let stopping = &row.params.stopping;
    let eog_ids: &[TokenId] = if stopping.ignore_eos { &[] } else { row.eog_ids };
    for &id in eog_ids.iter().chain(&stopping.stop_token_ids) {
        logits[id as usize] = f32::NEG_INFINITY;
    }
}

fn add_bias(row: &Row, logits: &mut [f32]) {
    for &(id, bias) in &row.params.sampling.logit_bias {
        let logit = &mut logits[id as usize];
        *logit = if bias == f32::NEG_INFINITY { bias } else { keep_finite(*logit, *logit + bias) };
    }
}

/// Over the last `repetition_window` tokens of prompt and output, each different token once.
fn penalize_repetition(row: &Row, scratch: &mut Scratch) {
    let penalty = row.params.sampling.repetition_penalty;
    if penalty == 1.0 {
        return;
    }
    let window = match row.params.sampling.repetition_window {
        0 => row.tokens,
        length => &row.tokens[row.tokens.len().saturating_sub(length as usize)..],
    };
    for &id in window {
        let count = &mut scratch.counts[id as usize];
        if *count == 0 {
            *count = 1;
            let logit = &mut scratch.logits[id as usize];
            let changed = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            *logit = keep_finite(*logit, changed);
        }
    }
    clear_counts(window, &mut scratch.counts);
}

/// Over the generated tokens alone.
fn penalize_presence_and_frequency(row: &Row, scratch: &mut Scratch) {
    let (presence, frequency) = (row.params.sampling.presence_penalty, row.params.sampling.frequency_penalty);
    if presence == 0.0 && frequency == 0.0 {
        return;
    }
    let generated = &row.tokens[row.num_prompt_tokens..];
    for &id in generated {
        scratch.counts[id as usize] += 1;
    }
    for &id in generated {
        let count = std::mem::take(&mut scratch.counts[id as usize]);
        if count > 0 {
            let logit = &mut scratch.logits[id as usize];
            *logit = keep_finite(*logit, *logit - (frequency * count as f32 + presence));
        }
    }
}

fn clear_counts(ids: &[TokenId], counts: &mut [u32]) {
    for &id in ids {
        counts[id as usize] = 0;
    }
}

/// `new`, except that a finite logit stays finite: only -inf masks a token, never an overflow.
fn keep_finite(old: f32, new: f32) -> f32 {
    if old == f32::NEG_INFINITY { old } else { new.clamp(f32::MIN, f32::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::params::SequenceParams;
    use std::str::FromStr;

    /// The cell, or what is off.
    fn cell<T: FromStr<Err: std::fmt::Debug>>(row: &crate::spec::table::Row, column: &str, off: T) -> T {
        if row.text(column).is_empty() { off } else { row.get(column) }
    }

    #[test]
    fn smp_2_logits_change_as_the_table_says() {
        covers!("SMP-2");
        for cells in crate::spec::table("SMP-2").rows() {
            let mut params = SequenceParams::default();
            params.stopping.min_tokens = cell(&cells, "min_tokens", 0);
            let bias = cells.list::<String>("bias");
            let entry = |text: &String| text.split_once(':').map(|(id, l)| (id.parse().unwrap(), l.parse().unwrap()));
            params.sampling.logit_bias = bias.iter().filter_map(entry).collect();
            params.sampling.repetition_penalty = cell(&cells, "repetition", 1.0);
            params.sampling.repetition_window = cell(&cells, "window", 0);
            params.sampling.presence_penalty = cell(&cells, "presence", 0.0);
            params.sampling.frequency_penalty = cell(&cells, "frequency", 0.0);
            let row = Row {
                logits: &[0.5, 4.0, 3.0, -1.0, 2.0, 1.0],
                params: &params,
                eog_ids: &[1],
                tokens: &[0, 2, 2, 4, 4],
                num_prompt_tokens: 2,
                sequence_index: 0,
            };
            let mut scratch = Scratch::default();
            apply(&row, &mut scratch);
            assert_eq!(scratch.logits, cells.list::<f32>("logits"), "{params:?}");
            assert!(!change_nothing(&row) || scratch.logits == row.logits, "{params:?}");
        }
    }
}
