//! Requests of many sequences beside those of one (SCH-18): they take places by turns, and wait for none but the first.

use super::{Machine, STEP_MS, TOKEN_MS};

/// Groups as large as the batch, whose sequences are done with their first token, beside a backlog of single requests.
#[test]
fn sch_18_groups_do_not_empty_the_batch() {
    covers!("SCH-18");
    let finished_of_others = |with_groups: bool| {
        let mut machine = Machine::new(16, &[]);
        while machine.now_ms < 60_000.0 {
            while machine.num_waiting("single") < 20 {
                machine.submit("single", 0, 20, 40);
            }
            while with_groups && machine.num_waiting("wide") < 2 {
                machine.submit_group(16, "wide", 0, 1, 1);
            }
            machine.step();
        }
        let of_others = machine.finished_ms.keys().filter(|id| machine.requests[id].0 == "single").count();
        (of_others, machine.finished_ms.len() - of_others)
    };
    let ((alone, _), (beside, groups)) = (finished_of_others(false), finished_of_others(true));
    // Half of the tokens each; those of a group take no longer than the step that computes its prompt of one.
    assert!(groups > 16 * 100 && beside as f64 > 0.45 * alone as f64, "{beside} of {alone} beside {groups}");
}

/// Forty sequences of one request for four places, and then one of another tenant: it gets the next place that is free.
#[test]
fn sch_18_a_large_group_takes_its_turn_for_each_place() {
    covers!("SCH-18");
    let mut machine = Machine::new(4, &[]);
    machine.submit_group(40, "wide", 0, 30, 20);
    for _ in 0..5 {
        machine.step();
    }
    let before_ms = machine.now_ms;
    let single = machine.submit("single", 0, 30, 20);
    machine.run_until_idle();
    // As beside a flood of single requests. Prompts of forks that wait for a place are computed for each.
    let alone_ms = 20.0 * STEP_MS + (30.0 + 19.0) * TOKEN_MS;
    let next_place_ms = 20.0 * (STEP_MS + 34.0 * TOKEN_MS);
    let took_ms = machine.finished_ms[&single] - before_ms;
    assert!(took_ms <= 2.0 * alone_ms + next_place_ms, "{took_ms} ms");
    assert_eq!(machine.finished_ms.len(), 41);
    // What it computes again for want of places is its own.
    assert_eq!(machine.served["wide"], 30 + 4 * 19 + 36 * (30 + 20 - 1));
}
