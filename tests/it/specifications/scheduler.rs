//! `specs/03_BATCHED_SCHEDULER.md`: plans, step by step.

use crate::spec::{named_table, table};
use llorch_cpud::scheduler::{Outcome, Scheduler, SchedulerConfig, Sharing, StepPlan};
use llorch_cpud::types::{SeqId, Turn};

/// `2:9` as two numbers.
fn pair(text: &str, separator: char) -> (u64, u32) {
    let (left, right) = text.split_once(separator).expect("two parts");
    (left.parse().expect("a number"), right.parse().expect("a number"))
}

/// The plan as the tables write it.
fn shown(plan: &StepPlan) -> String {
    let parts = plan.sequences.iter().map(|s| {
        let samples = if s.samples { "*" } else { "" };
        format!("{}:{}+{}{samples}", s.id.0, s.start, s.num_tokens)
    });
    parts.collect::<Vec<_>>().join(" ")
}

fn check_plans(name: &str, limits: SchedulerConfig) {
    let mut scheduler = Scheduler::new(limits).expect("good limits");
    let mut plan = StepPlan::default();
    // Tokens that each sequence may still generate.
    let mut left = Vec::new();
    for row in named_table("SCH-10", name).rows() {
        for submitted in row.list::<String>("submit") {
            let (id, lengths) = submitted.split_once(':').expect("an id");
            let (prompt, max_tokens) = pair(lengths, '+');
            assert_eq!(id.parse(), Ok(left.len()), "ids count up");
            let tokens = vec![7; prompt as usize];
            scheduler
                .submit(SeqId(left.len() as u64), &tokens, max_tokens, Sharing::NONE, &Turn::default())
                .expect("it fits");
            left.push(max_tokens);
        }
        scheduler.plan(&mut plan, u32::MAX);
        let outcomes: Vec<Outcome> = plan
            .samples()
            .map(|s| {
                let left = &mut left[s.id.0 as usize];
                *left -= 1;
                if *left == 0 { Outcome::Finish } else { Outcome::Append(7) }
            })
            .collect();
        scheduler.commit(&plan, &outcomes);
        let step = row.text("step");
        assert_eq!(shown(&plan), row.text("plan"), "{name}, step {step}");
        assert_eq!(plan.num_preempted(), row.get::<u32>("preempted"), "{name}, step {step}");
        assert_eq!(scheduler.pool().num_free(), row.get::<u32>("free"), "{name}, step {step}");
    }
    assert!(!scheduler.has_work(), "{name}: the table ends when all have ended");
}

#[test]
fn sch_10_plans_are_those_of_the_tables() {
    covers!("SCH-10");
    let limits =
        SchedulerConfig { max_num_seqs: 3, max_num_batched_tokens: 8, num_blocks: 6, block_size: 4, max_model_len: 64 };
    check_plans("chunks", limits);
    let limits = SchedulerConfig { max_num_seqs: 4, num_blocks: 4, block_size: 2, max_model_len: 16, ..limits };
    check_plans("preemption", limits);
}

#[test]
fn sch_8_what_never_fits_is_refused_as_the_table_says() {
    covers!("SCH-8");
    for row in table("SCH-8").rows() {
        let limits = SchedulerConfig {
            max_num_seqs: 4,
            max_num_batched_tokens: 8,
            num_blocks: 4,
            block_size: 2,
            max_model_len: 10,
        };
        let mut scheduler = Scheduler::new(limits).expect("good limits");
        let prompt = vec![7; row.get::<usize>("prompt")];
        let result = scheduler.submit(SeqId(0), &prompt, row.get("max_tokens"), Sharing::NONE, &Turn::default());
        match result {
            Ok(()) => assert_eq!(row.text("needed"), "", "{} tokens were taken", prompt.len()),
            Err(error) => {
                assert_eq!((error.needed, error.available), (row.get("needed"), row.get("available")));
                let text = error.to_string();
                assert!(text.contains(row.text("needed")) && text.contains(row.text("available")), "{text}");
                assert!(!scheduler.has_work(), "a refusal has no effect");
            }
        }
    }
}
