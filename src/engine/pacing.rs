//! How many prompt tokens a step may take: beside the sequences that decode, so that their tokens keep coming in time,
//! and where nobody decodes, so that the engine comes round in time to whoever arrives or goes.
//!
//! A step of `r` decoding sequences and `p` other tokens is taken to last `d(r) + c * p`. Aimed at is `T`: what
//! `--target-itl` says, or twice `d(r)` and at least [`LEAST_TARGET`]. So the next step may take `(T - d(r)) / c` other
//! tokens.
//!
//! Without `--target-itl`, `T` grows with those who wait behind another for their first token and have a place: from
//! `CROWD` for each that decodes on, to `MOST_FACTOR` times as much where they are twice as many, and where nobody
//! decodes. They are a backlog: what decoding takes is waited for by each of them. What `T` has grown by it keeps while
//! one waits behind another, and for the one that is left a step more, then half of it with each step: the last of a
//! crowd are not to wait longer for coming last. One long prompt beside streams is no crowd. `T` does not grow beyond
//! [`LONGEST_STEP`].
//!
//! Where nobody decodes, a step is to last [`LONGEST_STEP`] at most: as long as a token takes as in the last such step.
//!
//! `d` and `c` are learned from the steps that were made:
//!
//! - `d(r)` is the second shortest of the last four decode-only steps, kept for each power of two of `r`: two that the
//!   system held up do not move it. Where there is none of this size, the nearest counts. While prompts never stop
//!   there would be no decode-only step at all. So one is asked for, by the answer 0, where `FRESH_STEPS` steps have
//!   passed since the last of this size, and sooner where the last does not agree with those before.
//! - `c` is drawn towards each step's `(t - d) / p`: by half the difference of the logarithms times the share of the
//!   step that its prompt tokens take, as a small share is a poor measure. More than a factor of four is cut off. That
//!   follows prompts as they grow longer, and at twice `d(r)` any other change within ten steps, while a bad step moves
//!   it by no more than a half. It settles also where a step does not grow in proportion to its tokens, as when the
//!   first of them are as good as free beside the reading of the weights.
//!
//! There is no clock here: durations are arguments.

use std::time::Duration;

/// Without a target of its own, no step of less than this is thought too long: it makes twenty tokens a second.
pub const LEAST_TARGET: Duration = Duration::from_millis(50);
/// Those who wait behind another, for each that decodes, from which the target grows.
const CROWD: f64 = 0.125;
/// The most that the target grows by.
const MOST_FACTOR: f64 = 6.0;
/// Prompt tokens that a step may take at least, but for the decode-only steps that are asked for: prompts go on also
/// where decoding alone takes longer than the target.
pub const MIN_CHUNK: u32 = 4;
/// A step in which nobody decodes, or a crowd waits, is to last no longer. A cancellation and a new request wait for
/// its end, and so does the watchdog, which calls the engine stalled after ten seconds; longer ones would compute
/// hardly faster.
pub const LONGEST_STEP: Duration = Duration::from_secs(2);
/// Prompt tokens that a step may take before any were measured.
const FIRST_CHUNK: u32 = 64;
/// After so many steps without a decode-only one, the time that one takes is measured anew.
const FRESH_STEPS: u64 = 16;
/// The same where only one was measured, or the last does not agree with those before it. No two decode-only steps are
/// asked for within fewer.
const DOUBTFUL_STEPS: u64 = 4;
/// Relative difference from which decode-only steps do not agree.
const DOUBT: f64 = 0.25;
/// How far the logarithm of the cost of a prompt token goes towards that of a step of nothing else.
const GAIN: f64 = 0.5;
/// The most that one step's cost may differ from the estimate.
const MAX_RATIO: f64 = 4.0;
/// Share of a step's time that its prompt tokens take at least. A difference of two nearly equal times is no measure.
const LEAST_SHARE: f64 = 1.0 / 16.0;
/// Numbers of decoding sequences that have the same power of two at or above them: one for each bit of a `u32`.
const NUM_SIZES: usize = 33;

/// The last decode-only steps of one size.
#[derive(Clone, Copy, Debug, Default)]
struct DecodeSteps {
    /// Seconds, the last one first.
    last: [f64; 4],
    count: usize,
    /// The number of the last of them.
    at: u64,
    /// The last does not agree with those before it, or there are none.
    doubtful: bool,
}

impl DecodeSteps {
    /// Seconds; `None` before the first. Delays make steps longer and nothing makes them shorter: of two the shorter.
    fn typical(&self) -> Option<f64> {
        let mut known = self.last;
        let known = &mut known[..self.count];
        known.sort_by(f64::total_cmp);
        known.get(self.count.saturating_sub(1) / 2).copied()
    }

    fn push(&mut self, seconds: f64, at: u64) {
        self.doubtful = self.typical().is_none_or(|typical| (seconds / typical - 1.0).abs() > DOUBT);
        self.last.rotate_right(1);
        self.last[0] = seconds;
        self.count = (self.count + 1).min(self.last.len());
        self.at = at;
    }

    fn is_fresh(&self, now: u64) -> bool {
        self.count > 0 && now - self.at < if self.doubtful { DOUBTFUL_STEPS } else { FRESH_STEPS }
    }
}

/// Learns from steps how long they take, and bounds the prompt tokens of the next one.
#[derive(Clone, Debug)]
pub struct Pacing {
    target: Option<Duration>,
    max_chunk: u32,
    sizes: [DecodeSteps; NUM_SIZES],
    /// Seconds a prompt token, beside the time of a decode-only step.
    token_cost: Option<f64>,
    /// Seconds a token, all included, of the last step in which nobody decoded.
    alone_cost: Option<f64>,
    /// Steps that were recorded.
    now: u64,
    /// When a decode-only step was last asked for.
    asked_at: Option<u64>,
    /// What the target grows by at least in the next step.
    factor: f64,
}

impl Pacing {
    /// `target`: the time from token to token to aim at; `None`: twice a decode-only step, and at least
    /// [`LEAST_TARGET`]. `max_chunk`: tokens that any step may take.
    pub fn new(target: Option<Duration>, max_chunk: u32) -> Self {
        let sizes = [DecodeSteps::default(); NUM_SIZES];
        Self { target, max_chunk, sizes, token_cost: None, alone_cost: None, now: 0, asked_at: None, factor: 1.0 }
    }

    /// A step of `decode_rows` sequences that decode and `prefill_tokens` other tokens took `duration`.
    pub fn record(&mut self, decode_rows: u32, prefill_tokens: u32, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if seconds == 0.0 || (decode_rows == 0 && prefill_tokens == 0) {
            return;
        }
        self.now += 1;
        if prefill_tokens == 0 {
            self.sizes[size(decode_rows)].push(seconds, self.now);
        } else {
            let (all, tokens) = (seconds / f64::from(prefill_tokens), f64::from(prefill_tokens));
            if decode_rows == 0 {
                self.alone_cost = Some(all);
            }
            self.token_cost = Some(match (self.token_cost, self.decode_seconds(decode_rows)) {
                (None, _) => all,
                // Nobody decoded: no more is known than that a token costs no more than this.
                (Some(cost), _) if decode_rows == 0 => cost.min(all),
                (Some(cost), None) => cost,
                (Some(cost), Some(decode)) => {
                    let found = (seconds - decode).max(seconds * LEAST_SHARE) / tokens;
                    let share = cost * tokens / (decode + cost * tokens);
                    cost * (found / cost).clamp(1.0 / MAX_RATIO, MAX_RATIO).powf(GAIN * share)
                }
            });
        }
    }

    /// Tokens that the next step may give to others than the `decode_rows` sequences that decode: [`MIN_CHUNK`] up to
    /// the limit of a step, or 0 so that the time of a decode-only step is measured. `awaiting`: sequences that could
    /// be computed now and have no token yet.
    pub fn max_prefill_tokens(&mut self, decode_rows: u32, awaiting: u32) -> u32 {
        if decode_rows == 0 {
            self.factor = MOST_FACTOR;
            return self.chunk(self.alone_cost.map(|cost| LONGEST_STEP.as_secs_f64() / cost));
        }
        let may_ask = self.asked_at.is_none_or(|at| self.now - at >= DOUBTFUL_STEPS);
        if may_ask && !self.sizes[size(decode_rows)].is_fresh(self.now) {
            self.asked_at = Some(self.now);
            return 0;
        }
        let factor = self.crowd_factor(decode_rows, awaiting);
        let tokens = match (self.decode_seconds(decode_rows), self.token_cost) {
            (Some(decode), Some(cost)) => Some((self.target_seconds(decode, factor) - decode) / cost),
            _ => None,
        };
        self.chunk(tokens)
    }

    /// So many tokens within the limits, or the first chunk where nothing is known.
    fn chunk(&self, tokens: Option<f64>) -> u32 {
        // The cast saturates.
        (tokens.unwrap_or(f64::from(FIRST_CHUNK)) as u32).max(MIN_CHUNK).min(self.max_chunk)
    }

    /// What the target grows by in a step beside `decode_rows` that decode, at least one, while `awaiting` await a
    /// token. Leaves in `self.factor` what is kept of it for the next step.
    fn crowd_factor(&mut self, decode_rows: u32, awaiting: u32) -> f64 {
        let crowd = f64::from(awaiting.saturating_sub(1)) / f64::from(decode_rows);
        let factor = (1.0 + (MOST_FACTOR - 1.0) * (crowd / CROWD - 1.0)).clamp(self.factor, MOST_FACTOR);
        self.factor = match awaiting {
            0 => 1.0,
            1 => (factor / 2.0).max(1.0),
            _ => factor,
        };
        factor
    }

    fn target_seconds(&self, decode: f64, factor: f64) -> f64 {
        let Some(target) = self.target else {
            let least = (2.0 * decode).max(LEAST_TARGET.as_secs_f64());
            return (factor * least).min(LONGEST_STEP.as_secs_f64()).max(least);
        };
        target.as_secs_f64()
    }

    /// Of a decode-only step, as far as is known: of this size, or of the nearest that was measured.
    fn decode_seconds(&self, decode_rows: u32) -> Option<f64> {
        let measured = self.sizes.iter().enumerate().filter_map(|(at, steps)| Some((at, steps.typical()?)));
        measured.min_by_key(|(at, _)| at.abs_diff(size(decode_rows))).map(|(_, seconds)| seconds)
    }
}

/// The place of the steps with so many decoding sequences among the sizes.
fn size(decode_rows: u32) -> usize {
    (u32::BITS - decode_rows.saturating_sub(1).leading_zeros()) as usize
}
