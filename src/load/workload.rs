//! What is sent: prompts, lengths, sampling parameters, cancellations and deadlines, all drawn before the run.

use super::random::Random;
use crate::types::TokenId;
use std::str::FromStr;

/// A number of tokens: fixed, or uniform between two bounds that are both possible.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Length {
    pub min: u32,
    pub max: u32,
}

impl FromStr for Length {
    type Err = String;

    /// `128`, or `64-256`. At least 1.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| part.trim().parse::<u32>().map_err(|_| format!("`{part}` is not a number of tokens"));
        let (min, max) = match text.split_once('-') {
            Some((min, max)) => (number(min)?, number(max)?),
            None => (number(text)?, number(text)?),
        };
        match min {
            0 => Err("at least 1 token".into()),
            _ if max < min => Err(format!("{max} is below {min}")),
            _ => Ok(Self { min, max }),
        }
    }
}

/// Parameters of the sampler, as the API names them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

/// Which sampling parameters the requests have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplingMix {
    Greedy,
    /// Each request draws one of [`MIX`].
    Mixed,
}

/// The parameters of a mixed run.
pub const MIX: [Sampling; 4] = [
    Sampling { temperature: 0.0, top_k: None, top_p: None, min_p: None, repetition_penalty: None },
    Sampling { temperature: 0.8, top_k: None, top_p: Some(0.95), min_p: None, repetition_penalty: None },
    Sampling { temperature: 1.0, top_k: Some(40), top_p: None, min_p: None, repetition_penalty: None },
    Sampling { temperature: 0.7, top_k: None, top_p: None, min_p: Some(0.05), repetition_penalty: Some(1.1) },
];

/// The shape of a run's requests.
#[derive(Clone, Debug)]
pub struct Workload {
    pub requests: usize,
    pub prompt_tokens: Length,
    pub gen_tokens: Length,
    /// The first tokens that all prompts share; cut to a prompt's length.
    pub shared_prefix_tokens: u32,
    pub sampling: SamplingMix,
    /// Of the requests, 0 to 100.
    pub cancel_percent: f64,
    /// Of the requests that have a deadline, 0 to 100.
    pub deadline_percent: f64,
    pub deadline_ms: Option<u64>,
    pub seed: u64,
}

/// One request of the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedRequest {
    pub prompt: Vec<TokenId>,
    /// Tokens to generate; the model's end tokens are ignored.
    pub gen_tokens: u32,
    pub sampling: Sampling,
    /// Of the sampler.
    pub seed: u64,
    /// Drop the stream once so many tokens came.
    pub cancel_after: Option<u32>,
    pub deadline_ms: Option<u64>,
}

/// Streams of the random numbers beside those of the requests, which have the numbers from 0.
const PREFIX_STREAM: u64 = u64::MAX;
const WARM_UP: u64 = 1 << 62;
/// The stream of the send times.
pub const ARRIVAL_STREAM: u64 = u64::MAX - 1;
/// The stream that chooses what is sent again.
pub const RESEND_STREAM: u64 = u64::MAX - 2;

impl Workload {
    /// The requests, over token ids below `vocab_size` (at least 1).
    pub fn plan(&self, vocab_size: u32) -> Vec<PlannedRequest> {
        let prefix = self.prefix(vocab_size);
        (0..self.requests as u64).map(|index| self.request(index, &prefix, vocab_size)).collect()
    }

    /// `count` requests like those of the plan, with other prompts, none cancelled, none with a deadline.
    pub fn warm_up(&self, count: usize, vocab_size: u32) -> Vec<PlannedRequest> {
        let prefix = self.prefix(vocab_size);
        let request = |index| {
            let request = self.request(WARM_UP + index, &prefix, vocab_size);
            PlannedRequest { cancel_after: None, deadline_ms: None, ..request }
        };
        (0..count as u64).map(request).collect()
    }

    fn prefix(&self, vocab_size: u32) -> Vec<TokenId> {
        // No prompt takes more of it.
        let len = self.shared_prefix_tokens.min(self.prompt_tokens.max);
        tokens(len, vocab_size, &mut Random::new(self.seed, PREFIX_STREAM))
    }

    fn request(&self, index: u64, prefix: &[TokenId], vocab_size: u32) -> PlannedRequest {
        // The same number of draws whatever is asked for, so that one setting does not change what another draws.
        let mut random = Random::new(self.seed, index);
        let prompt_tokens = random.range(self.prompt_tokens.min, self.prompt_tokens.max);
        let gen_tokens = random.range(self.gen_tokens.min, self.gen_tokens.max);
        let mixed = MIX[random.range(0, MIX.len() as u32 - 1) as usize];
        let cancelled = random.percent(self.cancel_percent);
        let cancel_after = random.range(0, gen_tokens - 1);
        let with_deadline = random.percent(self.deadline_percent);
        let seed = random.next_u64();
        let mut prompt: Vec<TokenId> = prefix.iter().copied().take(prompt_tokens as usize).collect();
        prompt.extend(tokens(prompt_tokens - prompt.len() as u32, vocab_size, &mut random));
        PlannedRequest {
            prompt,
            gen_tokens,
            sampling: if self.sampling == SamplingMix::Mixed { mixed } else { MIX[0] },
            seed,
            cancel_after: cancelled.then_some(cancel_after),
            deadline_ms: self.deadline_ms.filter(|_| with_deadline),
        }
    }
}

fn tokens(count: u32, vocab_size: u32, random: &mut Random) -> Vec<TokenId> {
    (0..count).map(|_| random.range(0, vocab_size.saturating_sub(1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn workload() -> Workload {
        Workload {
            requests: 400,
            prompt_tokens: Length { min: 6, max: 12 },
            gen_tokens: Length { min: 1, max: 9 },
            shared_prefix_tokens: 0,
            sampling: SamplingMix::Mixed,
            cancel_percent: 25.0,
            deadline_percent: 50.0,
            deadline_ms: Some(700),
            seed: 11,
        }
    }

    #[test]
    fn a_shared_prefix_costs_no_more_than_the_longest_prompt() {
        let plan = Workload { requests: 3, shared_prefix_tokens: u32::MAX, ..workload() }.plan(320);
        assert!(plan.iter().all(|request| plan[0].prompt[..6] == request.prompt[..6] && request.prompt.len() <= 12));
    }

    #[test]
    fn prompts_are_distinct_and_within_the_vocabulary() {
        let plan = workload().plan(320);
        let prompts: BTreeSet<_> = plan.iter().map(|request| request.prompt.clone()).collect();
        assert_eq!((plan.len(), prompts.len()), (400, 400));
        let ids: BTreeSet<_> = plan.iter().flat_map(|request| request.prompt.clone()).collect();
        assert_eq!((ids.first(), ids.last(), ids.len()), (Some(&0), Some(&319), 320));
        let lengths: BTreeSet<_> = plan.iter().map(|request| request.prompt.len()).collect();
        assert_eq!(lengths, (6..=12).collect());
        assert!(plan.iter().all(|request| request.cancel_after.is_none_or(|after| after < request.gen_tokens)));
        let share = |count: usize, percent: usize| count.abs_diff(400 * percent / 100) < 45;
        assert!(share(plan.iter().filter(|request| request.cancel_after.is_some()).count(), 25));
        assert!(share(plan.iter().filter(|request| request.deadline_ms == Some(700)).count(), 50));
        assert!(MIX.iter().all(|mix| share(plan.iter().filter(|request| request.sampling == *mix).count(), 25)));
    }

    #[test]
    fn a_shared_prefix_is_shared_and_the_rest_is_not() {
        let plan =
            Workload { shared_prefix_tokens: 8, prompt_tokens: Length { min: 4, max: 40 }, ..workload() }.plan(320);
        let longest = plan.iter().max_by_key(|request| request.prompt.len()).expect("requests");
        for request in &plan {
            let shared = request.prompt.len().min(8);
            assert_eq!(request.prompt[..shared], longest.prompt[..shared]);
        }
        let rests: BTreeSet<_> = plan.iter().filter_map(|request| request.prompt.get(8..14)).collect();
        assert!(rests.len() > 200);
    }

    #[test]
    fn a_seed_repeats_and_settings_do_not_disturb_each_other() {
        let plan = workload().plan(320);
        assert_eq!(plan, workload().plan(320));
        assert_ne!(plan, Workload { seed: 12, ..workload() }.plan(320));
        let plain = Workload { cancel_percent: 0.0, sampling: SamplingMix::Greedy, ..workload() }.plan(320);
        assert!(plan.iter().zip(&plain).all(|(a, b)| a.prompt == b.prompt && a.gen_tokens == b.gen_tokens));
        let warm_up = workload().warm_up(20, 320);
        assert!(warm_up.iter().all(|warm| plan.iter().all(|request| request.prompt != warm.prompt)));
    }

    #[test]
    fn lengths_are_read() {
        assert_eq!("128".parse(), Ok(Length { min: 128, max: 128 }));
        assert_eq!("64-256".parse(), Ok(Length { min: 64, max: 256 }));
        for bad in ["", "0", "0-3", "9-3", "-3", "x", "3-", "4294967296"] {
            assert!(bad.parse::<Length>().is_err(), "{bad}");
        }
    }
}
