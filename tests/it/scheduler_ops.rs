//! The scheduler as a state machine under proptest: any order of submits, aborts and steps, shrunk when it fails.
//!
//! The model beside it is what a caller can know: which sequences live, how many tokens each has, and that it gets them
//! one after the other. Whose turn it is says the oracle of the simulation.

use crate::simulation::turns::Turns;
use crate::simulation::workload::weights;
use llorch_cpud::scheduler::{Outcome, Scheduler, SchedulerConfig, Sharing, StepPlan};
use llorch_cpud::types::{CacheDomain, SeqId, TokenId, Turn};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Op {
    Submit {
        prompt: u32,
        output: u32,
        tenant: usize,
        priority: i32,
        cached: bool,
    },
    Abort {
        nth: usize,
    },
    /// The sequences with a bit of `ends` end with their token; the first row of logits may be bad.
    Step {
        max_prefill_tokens: u32,
        ends: u8,
        poisoned: bool,
    },
}

const TENANTS: [&str; 3] = ["", "half", "double"];

fn op() -> impl Strategy<Value = Op> {
    let bound = prop_oneof![Just(0u32), Just(1), Just(3), Just(u32::MAX)];
    prop_oneof![
        3 => (1..9u32, 1..6u32, 0..3usize, -2..3i32, any::<bool>()).prop_map(
            |(prompt, output, tenant, priority, cached)| Op::Submit { prompt, output, tenant, priority, cached }
        ),
        1 => (0..8usize).prop_map(|nth| Op::Abort { nth }),
        5 => (bound, any::<u8>(), prop::bool::weighted(0.05)).prop_map(
            |(max_prefill_tokens, ends, poisoned)| Op::Step { max_prefill_tokens, ends: ends & 0x11, poisoned }
        ),
    ]
}

struct Machine {
    scheduler: Scheduler,
    turns: Turns,
    /// Generated tokens that are left of the sequences that live.
    left: BTreeMap<SeqId, u32>,
    next_id: u64,
    now_ms: u64,
}

impl Machine {
    fn new(config: SchedulerConfig) -> Self {
        let mut scheduler = Scheduler::new(config).expect("valid limits");
        scheduler.set_tenant_weights(&weights());
        Self { scheduler, turns: Turns::new(&weights()), left: BTreeMap::new(), next_id: 0, now_ms: 0 }
    }

    fn apply(&mut self, op: &Op) {
        self.now_ms += 700;
        match *op {
            Op::Submit { prompt, output, tenant, priority, cached } => {
                let id = SeqId(self.next_id);
                self.next_id += 1;
                let tokens: Vec<TokenId> = (0..prompt).collect();
                let domain = cached.then_some(CacheDomain([1; 32]));
                let turn = Turn { tenant: TENANTS[tenant].into(), priority, arrived_ms: self.now_ms };
                if self.scheduler.submit(id, &tokens, output, Sharing { n: 1, domain }, &turn).is_ok() {
                    self.left.insert(id, output);
                    self.turns.submit(id, &turn);
                }
            }
            Op::Abort { nth } => {
                if let Some(&id) = self.left.keys().nth(nth) {
                    assert!(self.scheduler.abort(id).is_some(), "SCH-7: {id:?} lives");
                    self.end(id);
                }
            }
            Op::Step { max_prefill_tokens, ends, poisoned } => self.step(max_prefill_tokens, ends, poisoned),
        }
        self.scheduler.check_invariants();
    }

    fn end(&mut self, id: SeqId) {
        self.left.remove(&id);
        self.turns.end(id);
    }

    fn step(&mut self, max_prefill_tokens: u32, ends: u8, poisoned: bool) {
        let mut plan = StepPlan::default();
        self.scheduler.plan(&mut plan, max_prefill_tokens);
        assert_eq!(plan.is_empty(), self.left.is_empty(), "SCH-5: work and no plan, or the other way round");
        for scheduled in &plan.sequences {
            assert!(self.left.contains_key(&scheduled.id), "SCH-7: {:?} ended", scheduled.id);
            if self.turns.is_waiting(scheduled.id) {
                assert_eq!(self.turns.next(), Some(scheduled.id), "SCH-18: whose turn it is");
                self.turns.start(scheduled.id);
            }
            self.turns.compute(scheduled.id, scheduled.start, scheduled.start + scheduled.num_tokens);
        }
        let samples: Vec<_> = plan.samples().collect();
        let mut outcomes = Vec::new();
        for (nth, sample) in samples.iter().enumerate() {
            let left = self.left.get_mut(&sample.id).expect("a sequence that lives");
            *left -= 1;
            let ended = *left == 0 || ends >> (nth % 8) & 1 == 1;
            let known = self.scheduler.running()[sample.index as usize].num_tokens();
            outcomes.push(match (poisoned && nth == 0, ended) {
                (true, _) => Outcome::Poisoned,
                (false, true) => Outcome::Finish,
                (false, false) => Outcome::Append(known),
            });
        }
        self.scheduler.commit(&plan, &outcomes);
        for (sample, outcome) in samples.iter().zip(&outcomes) {
            if !matches!(outcome, Outcome::Append(_)) {
                self.end(sample.id);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_calls_keeps_the_properties(
        ops in prop::collection::vec(op(), 1..60),
        max_num_seqs in 1..5u32,
        max_num_batched_tokens in prop_oneof![Just(1u32), Just(3), Just(8)],
        num_blocks in 3..9u32,
        block_size in 1..4u32,
    ) {
        covers!("SCH-1", "SCH-7", "SCH-18");
        let config = SchedulerConfig {
            max_num_seqs,
            max_num_batched_tokens,
            num_blocks,
            block_size,
            max_model_len: 16,
        };
        let mut machine = Machine::new(config);
        for op in &ops {
            machine.apply(op);
        }
        // At most three rounds of every token, one a step.
        let mut rounds = 4 * 16 * ops.len();
        while !machine.left.is_empty() && rounds > 0 {
            machine.apply(&Op::Step { max_prefill_tokens: u32::MAX, ends: 0, poisoned: false });
            rounds -= 1;
        }
        prop_assert!(machine.left.is_empty(), "SCH-5: {:?} did not end", machine.left);
        prop_assert_eq!(machine.scheduler.pool().num_used(), 0);
    }
}
