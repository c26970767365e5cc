//! The book of open requests on a clock that the test sets. The handle's engine computes 100 prompt tokens in a step of
//! one second.

use super::*;
use crate::engine::handle::tests::{handle, request};
use crate::engine::handle::{EngineHandle, EventStream};
use crate::types::{CacheDomain, Finish};
use crossbeam_channel::Receiver;

const NOTHING: [u64; 0] = [];

struct Desk {
    handle: EngineHandle,
    inbox: Receiver<Submission>,
    delivery: Delivery,
    streams: Vec<EventStream>,
}

impl Desk {
    fn new() -> Self {
        let (handle, inbox) = handle();
        let delivery = Delivery::new(Arc::clone(&handle.shared));
        Self { handle, inbox, delivery, streams: Vec::new() }
    }

    /// Opens a request of 400 prompt tokens; returns its key and when it was submitted.
    fn open(&mut self, id: &str, seconds: Option<u64>, is_cached: bool) -> (SeqId, Instant) {
        let mut new = request(id, 400, seconds.map(Duration::from_secs));
        new.domain = is_cached.then(|| CacheDomain::new("model", "", ""));
        self.streams.push(self.handle.submit(new).expect("accepted"));
        let submission = self.inbox.recv().expect("submitted");
        let ticket = Arc::clone(&submission.ticket);
        let deadline = ticket.deadline.unwrap_or(ticket.submitted);
        self.delivery.open(submission);
        // So that times are exact: counted back from the deadline.
        (SeqId(ticket.first), deadline.checked_sub(Duration::from_secs(seconds.unwrap_or(0))).expect("a time"))
    }

    /// What is ended at this time.
    fn reap(&mut self, now: Instant) -> Vec<u64> {
        let mut ended = Vec::new();
        self.delivery.reap(now, &mut |id| ended.push(id.0));
        ended
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.handle.metrics().render();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    fn cancelled(&self) -> [f64; 3] {
        ["queue", "prefill", "decode"]
            .map(|stage| self.metric(&format!("llorch_requests_cancelled_total{{stage=\"{stage}\"}}")))
    }
}

fn after(begin: Instant, ms: u64) -> Instant {
    begin + Duration::from_millis(ms)
}

/// 400 tokens take four seconds at the best rate: with less than two left there is no hope.
#[test]
fn what_cannot_be_in_time_leaves_the_queue() {
    covers!("API-38", "API-39");
    let mut desk = Desk::new();
    desk.open("patient", None, false);
    let (hopeless, begin) = desk.open("hopeless", Some(10), false);
    assert_eq!(desk.reap(after(begin, 7990)), NOTHING);
    assert_eq!(desk.reap(after(begin, 8010)), [hopeless.0]);
    assert_eq!((desk.cancelled(), desk.delivery.num_not_started()), ([1.0, 0.0, 0.0], 1));
    assert_eq!((desk.handle.load().waiting, desk.handle.num_requests()), (1, 1));
}

/// The cache may have all of a prompt but its last token: a step of half the shortest is needed.
#[test]
fn what_may_be_cached_stays_in_the_queue_until_a_step_is_too_long() {
    covers!("API-38");
    let mut desk = Desk::new();
    desk.open("patient", None, false);
    let (cached, begin) = desk.open("cached", Some(10), true);
    assert_eq!(desk.reap(after(begin, 9490)), NOTHING);
    assert_eq!(desk.reap(after(begin, 9510)), [cached.0]);
}

#[test]
fn a_prompt_is_given_up_between_two_chunks() {
    covers!("API-38", "API-39");
    let mut desk = Desk::new();
    desk.open("patient", None, false);
    let (id, begin) = desk.open("in chunks", Some(10), true);
    // 100 tokens are cached, 300 are left: three seconds.
    desk.delivery.started(id, 100, after(begin, 8000));
    assert_eq!(desk.reap(after(begin, 8490)), NOTHING);
    desk.delivery.progressed(id, 100);
    assert_eq!(desk.reap(after(begin, 8990)), NOTHING);
    assert_eq!(desk.reap(after(begin, 9010)), [id.0]);
    assert_eq!((desk.cancelled(), desk.delivery.num_not_started()), ([0.0, 1.0, 0.0], 1));
}

/// Who has a token has something to read: it goes on until its deadline, and the blocks are back when it is reaped.
#[test]
fn what_generates_goes_on_until_its_deadline() {
    covers!("API-33", "API-39");
    let mut desk = Desk::new();
    desk.open("patient", None, false);
    let (id, begin) = desk.open("generates", Some(10), false);
    desk.delivery.started(id, 0, after(begin, 1000));
    let sampled = Sampled { token: 5, logprob: None, top: Vec::new() };
    desk.delivery.token(id, &sampled, None, after(begin, 5000));
    assert_eq!(desk.reap(after(begin, 9990)), NOTHING);
    assert_eq!(desk.reap(after(begin, 10_700)), [id.0]);
    assert_eq!(desk.cancelled(), [0.0, 0.0, 1.0]);
    let latency = desk.metric("llorch_cancel_latency_seconds_sum");
    assert!((latency - 0.7).abs() < 1e-3, "{latency}");
    assert_eq!(desk.metric("llorch_wasted_tokens_total{cause=\"cancel\"}"), 401.0);
}

/// After a preemption its known tokens are computed again, which changes nothing of that.
#[test]
fn what_is_computed_again_goes_on_until_its_deadline() {
    covers!("API-38");
    let mut desk = Desk::new();
    desk.open("patient", None, false);
    let (id, begin) = desk.open("preempted", Some(10), false);
    desk.delivery.started(id, 0, after(begin, 1000));
    let sampled = Sampled { token: 5, logprob: None, top: Vec::new() };
    desk.delivery.token(id, &sampled, None, after(begin, 5000));
    desk.delivery.preempted(id);
    desk.delivery.progressed(id, 100);
    assert_eq!(desk.reap(after(begin, 9990)), NOTHING);
    assert_eq!(desk.reap(after(begin, 10_010)), [id.0]);
}

/// Who goes before the actor has taken the request in rang for a request that it did not know.
#[test]
fn what_was_cancelled_before_it_was_taken_in_is_not_computed() {
    covers!("API-30", "API-31", "API-39");
    let mut desk = Desk::new();
    drop(desk.handle.submit(request("gone", 400, None)).expect("accepted"));
    assert_eq!(desk.reap(Instant::now()), NOTHING);
    let submission = desk.inbox.recv().expect("submitted");
    let first = submission.ticket.first;
    desk.delivery.open(submission);
    assert_eq!(desk.reap(Instant::now()), [first]);
    assert!(desk.delivery.is_empty());
}

#[test]
fn a_request_alone_is_tried_until_its_deadline() {
    covers!("API-38");
    let mut desk = Desk::new();
    let (alone, begin) = desk.open("alone", Some(10), false);
    desk.delivery.started(alone, 0, after(begin, 9000));
    assert_eq!(desk.reap(after(begin, 9990)), NOTHING);
    assert_eq!(desk.reap(after(begin, 10_010)), [alone.0]);
    assert!(desk.delivery.is_empty());
}

/// Nothing is kept of what ended in any way, and what rings late finds nothing.
#[test]
fn ends_leave_no_trace() {
    covers!("API-30", "API-39", "LAW-3");
    let mut desk = Desk::new();
    let (finished, begin) = desk.open("finished", Some(10), false);
    let (stopped, _) = desk.open("stopped", Some(10), false);
    let (gone, _) = desk.open("gone", Some(10), false);
    for id in [finished, stopped] {
        desk.delivery.started(id, 0, begin);
    }
    let length = Finish { reason: FinishReason::Length, by_stop_token: false };
    let sampled = Sampled { token: 5, logprob: None, top: Vec::new() };
    desk.delivery.token(finished, &sampled, Some(length), after(begin, 100));
    desk.delivery.token(stopped, &sampled, None, after(begin, 100));
    desk.streams[1].finish(0);
    desk.streams[1].finish(0);
    drop(desk.streams.remove(2));
    assert_eq!(desk.reap(after(begin, 200)), [stopped.0, gone.0]);
    assert_eq!(desk.reap(after(begin, 20_000)), NOTHING);
    assert!(desk.delivery.is_empty() && desk.delivery.due.is_empty());
    assert_eq!((desk.delivery.num_not_started(), desk.handle.shared.admission.taken()), (0, Default::default()));
    assert_eq!(desk.metric("llorch_cancel_latency_seconds_count"), 1.0);
}
