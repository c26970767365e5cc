//! What a step costs: so much whatever is in it, so much for each sequence that decodes, so much for each token of
//! prefill. Learned from the steps as they are measured. Pure: durations are arguments, there is no clock.

use super::load::StepSample;

/// Weight that all earlier steps lose with each new one: about the last 200 steps count.
const KEEP: f64 = 0.995;
/// Sizes of prefill: 1, 2 to 3, 4 to 7 and so on.
const NUM_SIZES: usize = 17;
/// What was measured less often says nothing about the best that can be.
const MIN_STEPS: u32 = 8;
/// Rounds of the solver for each step. It starts from the last solution, which is near.
const ROUNDS: usize = 4;

/// The coefficients `(step, decoding sequence, prefill token)` in seconds, none negative, that fit the recent steps
/// best by least squares.
#[derive(Clone, Debug, Default)]
pub struct StepCost {
    /// Normal equations, with earlier steps discounted.
    products: [[f64; 3]; 3],
    seconds: [f64; 3],
    cost: [f64; 3],
    num_steps: u32,
    fastest: f64,
    /// Of each size of prefill: steps, and the most tokens in a second.
    best: [(u32, f64); NUM_SIZES],
}

impl StepCost {
    /// Learns from a step. Steps without tokens tell nothing.
    pub fn observe(&mut self, sample: &StepSample) {
        let seconds = sample.duration.as_secs_f64();
        let (decoding, prefill) = (f64::from(sample.decoding), f64::from(sample.prefill_tokens));
        if decoding + prefill <= 0.0 || seconds <= 0.0 {
            return;
        }
        self.fastest = if self.num_steps > 0 { self.fastest.min(seconds) } else { seconds };
        self.num_steps = self.num_steps.saturating_add(1);
        if sample.prefill_tokens > 0 {
            let (steps, rate) = &mut self.best[size(sample.prefill_tokens)];
            *steps = steps.saturating_add(1);
            *rate = rate.max(prefill / seconds);
        }
        let row = [1.0, decoding, prefill];
        for ((products, target), x) in self.products.iter_mut().zip(&mut self.seconds).zip(row) {
            *target = *target * KEEP + x * seconds;
            for (product, y) in products.iter_mut().zip(row) {
                *product = *product * KEEP + x * y;
            }
        }
        for _ in 0..ROUNDS {
            self.improve();
        }
    }

    /// One round of coordinate descent: each coefficient in turn takes its best value that is not negative.
    fn improve(&mut self) {
        for index in [2, 1, 0] {
            let [products, cost] = [&self.products[index], &self.cost];
            let others: f64 = (0..3).filter(|&other| other != index).map(|other| products[other] * cost[other]).sum();
            let own = products[index];
            self.cost[index] = if own > 0.0 { ((self.seconds[index] - others) / own).max(0.0) } else { 0.0 };
        }
    }

    /// Seconds of a step in which `decoding` sequences decode and nothing else happens; 0 before anything was measured.
    pub fn step(&self, decoding: f64) -> f64 {
        self.cost[0] + self.cost[1] * decoding
    }

    /// Seconds that a token of prefill adds to its step.
    pub fn prefill_token(&self) -> f64 {
        self.cost[2]
    }

    /// Seconds that `tokens` of prefill, of which a step takes `chunk`, take at the least by all that was measured: at
    /// the best rate of any step, and no less than the shortest step. 0 while too little was measured: the more tokens
    /// a step has, the higher the rate, so that steps of less than half the size do not count.
    pub fn least(&self, tokens: u32, chunk: u32) -> f64 {
        if self.num_steps < MIN_STEPS {
            return 0.0;
        }
        let comparable = size(tokens.min(chunk).max(1)).saturating_sub(1);
        let num_comparable: u64 = self.best.iter().skip(comparable).map(|(steps, _)| u64::from(*steps)).sum();
        let rate = self.best.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        let at_best = if num_comparable >= u64::from(MIN_STEPS) { f64::from(tokens) / rate } else { 0.0 };
        at_best.max(self.fastest)
    }
}

fn size(tokens: u32) -> usize {
    (tokens.max(1).ilog2() as usize).min(NUM_SIZES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sample(decoding: u32, prefill_tokens: u32, ms: f64) -> StepSample {
        let duration = Duration::from_secs_f64(ms / 1e3);
        StepSample { duration, prompt_tokens: prefill_tokens, prefill_tokens, decoding, ..StepSample::default() }
    }

    #[test]
    fn finds_the_costs_that_steps_were_made_of() {
        let mut cost = StepCost::default();
        for i in 0..400_u32 {
            let (decoding, prefill) = (1 + i * 7 % 16, if i % 3 == 0 { i * 37 % 200 } else { 0 });
            cost.observe(&sample(decoding, prefill, 20.0 + 0.5 * f64::from(decoding) + 0.25 * f64::from(prefill)));
        }
        assert!((cost.step(16.0) - 0.028).abs() < 0.001, "{cost:?}");
        assert!((cost.step(1.0) - 0.0205).abs() < 0.001, "{cost:?}");
        assert!((cost.prefill_token() - 0.00025).abs() < 0.00001, "{cost:?}");
    }

    #[test]
    fn steps_that_are_alike_are_foretold_as_they_were() {
        let mut cost = StepCost::default();
        assert_eq!((cost.step(4.0), cost.prefill_token(), cost.least(100, 256)), (0.0, 0.0, 0.0));
        for _ in 0..50 {
            cost.observe(&sample(4, 100, 30.0));
        }
        let step = cost.step(4.0) + 100.0 * cost.prefill_token();
        assert!((step - 0.030).abs() < 0.001, "{cost:?}");
    }

    #[test]
    fn the_least_time_is_that_of_the_best_steps_of_the_size() {
        let mut cost = StepCost::default();
        (0..7).for_each(|_| cost.observe(&sample(1, 0, 4.0)));
        assert_eq!(cost.least(1, 256), 0.0);
        (0..7).for_each(|i| cost.observe(&sample(0, 100, 60.0 - f64::from(i))));
        // Seven steps of 100 tokens are too few to say anything about 100.
        assert!((cost.least(100, 256) - 0.004).abs() < 1e-9, "{cost:?}");
        cost.observe(&sample(4, 100, 50.0));
        assert!((cost.least(100, 256) - 0.050).abs() < 1e-9 && (cost.least(1, 256) - 0.004).abs() < 1e-9, "{cost:?}");
        // 1000 tokens may go faster than 100 did, unless a step takes no more than those.
        assert!((cost.least(1000, 256) - 0.004).abs() < 1e-9 && (cost.least(1000, 100) - 0.5).abs() < 1e-9, "{cost:?}");
    }
}
