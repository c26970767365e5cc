//! The handle without an actor.

use super::super::heartbeat::Heartbeat;
use super::*;
use crate::engine::admission::Admission;
use crate::engine::load::{LoadWindow, StepSample};
use crate::scheduler::{Scheduler, SchedulerConfig};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::watch;

/// A handle without an actor: a step of 100 prompt tokens takes a second.
pub(in crate::engine) fn handle() -> (EngineHandle, crossbeam_channel::Receiver<Submission>) {
    let facts = EngineFacts {
        vocab_size: 10,
        max_model_len: 10_000,
        max_num_seqs: 1,
        max_num_batched_tokens: 100,
        block_size: 1,
        num_blocks: 10_000,
        target_itl: None,
    };
    let config = SchedulerConfig {
        max_num_seqs: facts.max_num_seqs,
        max_num_batched_tokens: facts.max_num_batched_tokens,
        num_blocks: facts.num_blocks,
        block_size: facts.block_size,
        max_model_len: facts.max_model_len,
    };
    let mut window = LoadWindow::default();
    window.estimator.see(&Scheduler::new(config).unwrap());
    let duration = Duration::from_secs(1);
    let sample = StepSample { duration, prompt_tokens: 100, prefill_tokens: 100, ..StepSample::default() };
    (0..8).for_each(|_| window.push(sample));
    let admission = Admission::new(QueueLimits::new(100, 100_000), facts.num_blocks);
    let metrics = Arc::new(Metrics::new().unwrap());
    let shared =
        Arc::new(Shared { facts, admission, load: Mutex::new(window), heartbeat: Heartbeat::default(), metrics });
    let (sender, inbox) = crossbeam_channel::bounded(100);
    (EngineHandle { shared, inbox: sender, over: watch::Sender::new(false) }, inbox)
}

pub(in crate::engine) fn request(id: &str, tokens: usize, deadline: Option<Duration>) -> NewRequest {
    let deadline = deadline.map(|after| Instant::now() + after);
    NewRequest { request_id: id.into(), prompt: vec![1; tokens].into(), n: 1, deadline, ..NewRequest::default() }
}

#[test]
fn a_hopeless_deadline_is_refused_and_a_doubtful_one_is_not() {
    let (handle, _inbox) = handle();
    let _first = handle.submit(request("first", 1000, Some(Duration::from_millis(500)))).unwrap();
    let hopeless = handle.submit(request("hopeless", 10, Some(Duration::from_secs(4)))).err();
    // 1010 tokens take 10.1 seconds; 6.1 seconds later 4 are enough.
    let Some(RequestError::DeadlineUnmeetable { retry_after_ms }) = hopeless else { panic!("{hopeless:?}") };
    assert!((6100..7000).contains(&retry_after_ms), "{retry_after_ms}");
    handle.submit(request("doubtful", 10, Some(Duration::from_secs(7)))).unwrap();
    handle.submit(request("patient", 10, None)).unwrap();
    let late = handle.submit(request("late", 10, Some(Duration::ZERO))).err();
    assert_eq!(late, Some(RequestError::DeadlineExceeded(Stage::Queue)));
}

#[test]
fn a_full_queue_tells_when_an_eighth_of_it_is_free() {
    covers!("API-40");
    let (handle, _inbox) = handle();
    let _streams: Vec<_> = (0..100).map(|i| handle.submit(request(&i.to_string(), 50, None)).unwrap()).collect();
    let full = handle.submit(request("full", 10, None)).err();
    // 12.5 of the requests ahead: the last of them begins when the 11.5 before it are computed.
    assert_eq!(full, Some(RequestError::QueueFull { retry_after_ms: 5750 }));
}

/// What nobody else has to wait for is tried: the engine may be faster than it was.
#[test]
fn a_request_alone_is_not_refused_for_its_deadline() {
    covers!("API-33");
    let (handle, _inbox) = handle();
    let _alone = handle.submit(request("alone", 1000, Some(Duration::from_secs(1)))).unwrap();
    let second = handle.submit(request("second", 1000, Some(Duration::from_secs(1)))).err();
    assert!(matches!(second, Some(RequestError::DeadlineUnmeetable { .. })), "{second:?}");
}

#[test]
fn an_id_is_free_once_its_stream_has_ended() {
    let (handle, inbox) = handle();
    let dropped = handle.submit(request("mine", 10, None)).unwrap();
    assert_eq!(handle.submit(request("mine", 10, None)).err(), Some(RequestError::DuplicateId));
    drop(dropped);
    let mut stopped = handle.submit(request("mine", 10, None)).unwrap();
    stopped.finish(0);
    let _third = handle.submit(request("mine", 10, None)).unwrap();
    drop(stopped);
    // The end of an earlier request must not free the id of a later one.
    assert_eq!(handle.submit(request("mine", 10, None)).err(), Some(RequestError::DuplicateId));
    assert!(handle.abort("mine"));
    let causes: Vec<_> = inbox.try_iter().map(|submission| submission.ticket.cause()).collect();
    assert_eq!(causes, [Some(Cause::Client), None, Some(Cause::Admin)]);
}

#[test]
fn an_actor_that_is_gone_refuses_and_leaves_no_trace() {
    let (handle, inbox) = handle();
    drop(inbox);
    assert_eq!(handle.submit(request("a", 10, None)).err(), Some(RequestError::EngineRestart));
    assert_eq!((handle.num_requests(), handle.load().waiting), (0, 0));
}
