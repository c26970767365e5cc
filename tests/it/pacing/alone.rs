//! Steps in which nobody decodes do not grow without bound (`specs/03_BATCHED_SCHEDULER.md`, PAC-6).

use super::{ALL, BUDGET, Costs, ONE_B, PROMPT, Simulation, for_seeds};
use llorch_cpud::engine::pacing::LONGEST_STEP;

/// About a model of 7B in F16 on two cores: a full step would take 19 s.
const SEVEN_B: Costs = Costs { weights: 400.0, row: 37.0, token: 37.0, context: 0.002, prompt_context: 0.002, ..ONE_B };

#[test]
fn prompts_alone_leave_short_steps() {
    covers!("PAC-6");
    for_seeds(50, |seed| {
        for (name, costs) in ALL.into_iter().chain([("7B", SEVEN_B)]) {
            let costs = Costs { one_held_up_in: 0, ..costs };
            let mut simulation = Simulation::new(costs, None, seed);
            simulation.waiting = u32::MAX;
            simulation.steps(1);
            assert!(simulation.prefilled <= 64, "{name}: {} tokens in the first step", simulation.prefilled);
            simulation.steps(4);
            let (begin, computed) = (simulation.clock_ms, simulation.prefilled);
            // Twice the noise, and the tokens further back than those of the step before.
            let most = LONGEST_STEP.as_secs_f64() * 1e3 * 1.2;
            for _ in 0..100 {
                let before = simulation.clock_ms;
                simulation.steps(1);
                let step = simulation.clock_ms - before;
                assert!(step <= most, "{name}: a step of {step} ms");
            }
            let speed = (simulation.prefilled - computed) as f64 / (simulation.clock_ms - begin);
            // Full steps without a bound, at the mean distance back. A part of the time of the weights is the price.
            simulation.done = PROMPT / 2 - BUDGET / 2;
            let unbounded = f64::from(BUDGET) / simulation.cost(BUDGET);
            assert!(speed >= 0.75 * unbounded, "{name}: {speed} of {unbounded} tokens a millisecond");
        }
    });
}

/// A step that was held up makes the next one shorter, and no more.
#[test]
fn a_short_step_is_followed_by_a_full_one() {
    covers!("PAC-6");
    for_seeds(50, |seed| {
        let mut simulation = Simulation::new(ONE_B, None, seed);
        simulation.waiting = u32::MAX;
        simulation.steps(3);
        simulation.slowdown = 20.0;
        simulation.steps(1);
        simulation.slowdown = 1.0;
        simulation.steps(1);
        let before = simulation.prefilled;
        simulation.steps(2);
        let computed = simulation.prefilled - before;
        assert!(computed > u64::from(BUDGET), "{computed} tokens in two steps");
    });
}
