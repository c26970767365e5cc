//! How long a request that came now would wait for its first token. Pure: it learns from steps and tokens as they are
//! reported, sees what runs, and is asked with what is ahead; there is no clock.
//!
//! A request waits for a place and for the prompts before its own, at the same time. A place becomes free when a
//! sequence ends: how many do within `t` steps follows from the lengths that sequences had so far and from their
//! limits ([`OutputLengths`]). Every step has its fixed part and its decoding sequences; prompts add their tokens
//! ([`StepCost`]), less the share that the prefix cache supplies.

use super::load::StepSample;
use super::output_lengths::OutputLengths;
use super::step_cost::StepCost;
use crate::scheduler::Scheduler;

/// Places that are looked at one by one; of more, every second one or fewer.
const MAX_PLACES: usize = 64;
/// Prompt tokens above which older ones count half in the share that is computed.
const FORGET_TOKENS: f64 = 65_536.0;
/// Weight of a step in the mean chunk of prefill.
const CHUNK_WEIGHT: f64 = 0.05;
/// Rounds of the search for a number of steps: it is exact to a thousandth.
const SEARCH_ROUNDS: usize = 10;

/// Sequences that get their turn before the request that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ahead {
    pub sequences: f64,
    /// Of their prompts; those of a request count once.
    pub prompt_tokens: f64,
    /// What they may generate at the most, added up.
    pub output_tokens: f64,
}

impl Ahead {
    /// The one with more sequences.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        if other.sequences > self.sequences { other } else { self }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        Self {
            sequences: self.sequences + other.sequences,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
        }
    }

    /// The part `share` of it.
    #[must_use]
    pub fn times(self, share: f64) -> Self {
        Self {
            sequences: self.sequences * share,
            prompt_tokens: self.prompt_tokens * share,
            output_tokens: self.output_tokens * share,
        }
    }

    /// Tokens of work, at the most.
    pub fn work(&self) -> f64 {
        self.prompt_tokens + self.output_tokens
    }
}

/// The request that is asked for: its first sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub prompt_tokens: u32,
    /// What it may generate at the most.
    pub max_tokens: u32,
}

/// Expected times from now on, in seconds. 0 while nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wait {
    pub first_step: f64,
    pub first_token: f64,
}

/// A deadline is refused when the expected wait is longer by this factor than what is left: an estimate may err.
const DOUBT: f64 = 1.5;

impl Wait {
    /// Whether a request that has `left` seconds is expected to get no token in time, beyond doubt.
    pub fn misses(&self, left: f64) -> bool {
        self.first_token > left * DOUBT
    }
}

/// A sequence, or some like it, that holds a place.
#[derive(Clone, Copy, Debug)]
struct Place {
    generated: u32,
    limit: u32,
    count: f64,
}

/// What was learned, and what runs now.
#[derive(Clone, Debug, Default)]
pub struct WaitEstimator {
    cost: StepCost,
    lengths: OutputLengths,
    computed_tokens: f64,
    cached_tokens: f64,
    /// Tokens of prefill in a step that could not take all there were; 0 before there was one.
    chunk: f64,
    budget: f64,
    places: Vec<Place>,
    taken: f64,
    max_places: f64,
    /// Preempted sequences go before all that wait.
    preempted: Ahead,
    /// Tokens of prefill that running sequences have still to compute.
    pending: f64,
    /// Room for known tokens that no running sequence is about to need.
    free_slots: f64,
}

impl WaitEstimator {
    /// Learns from a step. To be called when [`WaitEstimator::see`] has seen the scheduler after it.
    pub fn observe_step(&mut self, sample: &StepSample) {
        self.cost.observe(sample);
        self.computed_tokens += f64::from(sample.prompt_tokens);
        self.cached_tokens += f64::from(sample.cached_tokens);
        if self.computed_tokens + self.cached_tokens > FORGET_TOKENS {
            self.computed_tokens /= 2.0;
            self.cached_tokens /= 2.0;
        }
        if self.pending > 0.0 {
            let prefill = f64::from(sample.prefill_tokens);
            let weight = if self.chunk > 0.0 { CHUNK_WEIGHT } else { 1.0 };
            self.chunk += weight * (prefill - self.chunk);
        }
    }

    /// Learns from a token: the sequence had `generated` before it, and ended by itself with it if `stopped`.
    pub fn observe_token(&mut self, generated: u32, stopped: bool) {
        self.lengths.observe(generated, stopped);
    }

    /// Learns that a sequence of `generated` tokens ended by itself, as it turned out after its last token.
    pub fn observe_stop(&mut self, generated: u32) {
        self.lengths.observe_stop(generated.saturating_sub(1));
    }

    /// Takes note of what runs.
    pub fn see(&mut self, scheduler: &Scheduler) {
        let (config, running) = (scheduler.config(), scheduler.running());
        let stride = running.len().div_ceil(MAX_PLACES).max(1);
        (self.taken, self.pending) = (0.0, 0.0);
        self.places.clear();
        for (number, sequence) in running.iter().enumerate() {
            let places = f64::from(1 + sequence.num_forks());
            self.taken += places;
            if sequence.num_pending_tokens() > 1 || sequence.num_generated_tokens() == 0 {
                self.pending += f64::from(sequence.num_pending_tokens());
            }
            if number % stride == 0 {
                let limit = sequence.max_len().saturating_sub(sequence.num_prompt_tokens());
                let count = places * stride as f64;
                self.places.push(Place { generated: sequence.num_generated_tokens(), limit, count });
            }
        }
        self.preempted = Ahead::default();
        for sequence in scheduler.preempted() {
            self.preempted.sequences += f64::from(1 + sequence.num_forks());
            self.preempted.prompt_tokens += f64::from(sequence.num_tokens());
            self.preempted.output_tokens += f64::from(sequence.max_len() - sequence.num_tokens());
        }
        let block_size = f64::from(config.block_size);
        // Admission leaves one block for each running sequence to grow into.
        let free_blocks = f64::from(scheduler.pool().num_available()) - self.taken;
        self.free_slots = (free_blocks * block_size - self.pending).max(0.0);
        self.max_places = f64::from(config.max_num_seqs.min(config.max_num_batched_tokens));
        self.budget = f64::from(config.max_num_batched_tokens);
    }

    /// What `candidate` is to expect behind `ahead`.
    pub fn wait(&self, ahead: &Ahead, candidate: &Candidate) -> Wait {
        // One place is enough for the candidate, whatever it brings.
        let starts = ahead.sequences + self.preempted.sequences + 1.0;
        let output_tokens = ahead.output_tokens + self.preempted.output_tokens + f64::from(candidate.max_tokens);
        let prompt_tokens = ahead.prompt_tokens + self.preempted.prompt_tokens + f64::from(candidate.prompt_tokens);
        let (mean_output, mean_prompt) = (output_tokens / starts, (prompt_tokens / starts).max(1.0));
        let free = (self.max_places - self.taken).min((self.free_slots / mean_prompt).floor()).max(0.0);
        let place_steps = self.steps_until(starts, free, mean_output);
        let share = self.computed_share();
        let before = self.pending + share * (ahead.prompt_tokens + self.preempted.prompt_tokens);
        let own_prompt = (share * f64::from(candidate.prompt_tokens)).max(1.0);
        let chunk = (if self.chunk > 0.0 { self.chunk } else { self.budget }).max(1.0);
        let busy = self.taken + ahead.sequences + self.preempted.sequences;
        let step = self.cost.step(busy.min(self.taken + free));
        // On average half of the step that is under way is still to come.
        let under_way = if place_steps > 0.0 || busy == 0.0 || self.pending > 0.0 { 0.0 } else { 0.5 };
        let steps = place_steps.max(before / chunk) + under_way;
        let first_step = steps * step + before * self.cost.prefill_token();
        let own_time = (own_prompt / chunk).ceil() * step + own_prompt * self.cost.prefill_token();
        Wait { first_step, first_token: first_step + own_time }
    }

    /// Seconds until all of `ahead` have begun: the room they take in the queue is free then.
    pub fn until_started(&self, ahead: &Ahead) -> f64 {
        let number = ahead.sequences.max(1.0);
        let mean = |sum: f64| (sum / number).min(f64::from(u32::MAX)) as u32;
        let last = Candidate { prompt_tokens: mean(ahead.prompt_tokens), max_tokens: mean(ahead.output_tokens) };
        let others = 1.0 - 1.0 / number;
        let before = Ahead {
            sequences: number - 1.0,
            prompt_tokens: ahead.prompt_tokens * others,
            output_tokens: ahead.output_tokens * others,
        };
        self.wait(&before, &last).first_step
    }

    /// Seconds that `tokens` of prefill take at the least: see [`StepCost::least`].
    pub fn least(&self, tokens: u32) -> f64 {
        self.cost.least(tokens, self.budget as u32)
    }

    /// The share of prompt tokens that the prefix cache does not supply, above 0.
    fn computed_share(&self) -> f64 {
        let all = self.computed_tokens + self.cached_tokens;
        if all > 0.0 { self.computed_tokens / all } else { 1.0 }
    }

    /// Steps until `starts` sequences have begun, with `free` places to begin with.
    fn steps_until(&self, starts: f64, free: f64, mean_output: f64) -> f64 {
        if free >= starts || self.places.is_empty() {
            return 0.0;
        }
        let service = self.lengths.expected(mean_output.min(f64::from(u32::MAX)) as u32).max(1.0);
        let (mut low, mut high) = (0.0, 1.0);
        while self.started_within(high, free, service) < starts {
            (low, high) = (high, high * 2.0);
            if high > 1e12 {
                return high;
            }
        }
        for _ in 0..SEARCH_ROUNDS {
            let middle = f64::midpoint(low, high);
            if self.started_within(middle, free, service) < starts { low = middle } else { high = middle }
        }
        f64::midpoint(low, high)
    }

    /// How many sequences are expected to begin within `steps` steps: in places that are free, in those that become
    /// free, and after them again, each with the mean `service`.
    fn started_within(&self, steps: f64, free: f64, service: f64) -> f64 {
        let in_free = free * (1.0 + steps / service);
        let in_taken = self.places.iter().map(|place| {
            let stay = self.lengths.stay(place.generated, place.limit, steps);
            place.count * (1.0 - stay.remains + (steps - stay.steps) / service)
        });
        in_free + in_taken.sum::<f64>()
    }
}
