//! How long steps may be while many wait for their first token, and after (`specs/03_BATCHED_SCHEDULER.md`, PAC-2).

use super::{measured_once, settled};
use llorch_cpud::engine::pacing::Pacing;
use std::time::Duration;

/// Asserts how many times as many prompt tokens the next step may take as one without a crowd. Steps that decode take
/// 100 ms and are aimed at twice that, so `factor` times as long a step leaves `2 * factor - 1` times as many.
fn assert_grown(pacing: &mut Pacing, awaiting: u32, times: f64) {
    // A part of a token is cut off, half of one in the mean.
    let one = f64::from(settled().max_prefill_tokens(16, 1)) + 0.5;
    let found = (f64::from(pacing.max_prefill_tokens(16, awaiting)) + 0.5) / one;
    assert!((found / times - 1.0).abs() < 0.1, "{awaiting} wait: {found}, not {times} times as many tokens");
}

#[test]
fn the_target_grows_where_many_await_a_token() {
    covers!("PAC-2");
    let none = settled().max_prefill_tokens(16, 1);
    assert_eq!([0, 3].map(|awaiting| settled().max_prefill_tokens(16, awaiting)), [none; 2]);
    // 7 and 12 times 100 ms, less the 100 ms of a decode-only step; twice 100 leaves 100.
    for (awaiting, times) in [(4, 6.0), (5, 11.0), (16, 11.0), (1000, 11.0)] {
        assert_grown(&mut settled(), awaiting, times);
    }
    let mut given = measured_once(Some(Duration::from_millis(600)), 100);
    assert_eq!(given.max_prefill_tokens(16, 1000), 50);
}

/// The last of a crowd are not to wait longer for coming last, and a long prompt gains little from a crowd before it.
#[test]
fn what_the_target_grew_by_goes_when_one_waits() {
    covers!("PAC-2");
    let mut pacing = settled();
    for (awaiting, factor) in [(3, 1.0), (5, 6.0), (2, 6.0), (3, 6.0), (1, 6.0), (1, 3.0), (1, 1.5), (1, 1.0)] {
        assert_grown(&mut pacing, awaiting, 2.0 * factor - 1.0);
    }
    // Gone with the last, also if that was soon.
    for (awaiting, factor) in [(2, 1.0), (5, 6.0), (0, 6.0), (3, 1.0)] {
        assert_grown(&mut pacing, awaiting, 2.0 * factor - 1.0);
    }
}

/// Who came while a prompt was computed for nobody else is one of a crowd.
#[test]
fn the_target_has_grown_after_a_step_in_which_nobody_decoded() {
    covers!("PAC-2");
    let mut pacing = settled();
    pacing.max_prefill_tokens(0, 1);
    for times in [11.0, 5.0, 2.0, 1.0] {
        assert_grown(&mut pacing, 1, times);
    }
}

/// Twelve times a decode-only step of a big model would be longer than what health takes for a stall.
#[test]
fn a_crowd_makes_no_step_longer_than_two_seconds() {
    covers!("PAC-2");
    // Prompt tokens of 10 ms each beside the decode-only step, to 2 s; where that is twice the step or less, to twice.
    for (decode_ms, tokens) in [(100, 110), (150, 165), (200, 180), (800, 120), (1500, 150)] {
        // A part of a token is cut off.
        let found = measured_once(None, decode_ms).max_prefill_tokens(16, 1000);
        assert!(found.abs_diff(tokens) <= 1, "beside steps of {decode_ms} ms: {found}, not {tokens}");
    }
}
