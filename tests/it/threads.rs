//! The threads of a serving process as the system sees them: asleep when there is nothing to do, bound where asked.
#![cfg(target_os = "linux")]

use crate::support::client::{eventually, request};
use crate::support::process::{Process, collect, model_file};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// A thread's lines of `/proc/PID/task/TID/status`.
type Status = BTreeMap<String, String>;

fn status(path: &std::path::Path) -> Option<Status> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect())
}

/// The threads that compute, by name.
fn computing(process: &Process) -> BTreeMap<String, Status> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.id())).expect("the process lives");
    let all = tasks.filter_map(|task| status(&task.expect("an entry").path().join("status")));
    let named = all.map(|status| (status["Name"].clone(), status));
    named.filter(|(name, _)| name == "llorch-engine" || name.starts_with("llorch-worker")).collect()
}

/// How often each thread went off its CPU, where all of them sleep. A thread that ran between two such looks has gone
/// off it once more.
fn asleep(process: &Process) -> Option<Vec<(String, String, String)>> {
    let threads = computing(process);
    let switches = |(name, status): (&String, &Status)| {
        status["State"].starts_with('S').then(|| {
            let count = |key: &str| status[key].clone();
            (name.clone(), count("voluntary_ctxt_switches"), count("nonvoluntary_ctxt_switches"))
        })
    };
    threads.iter().map(switches).collect()
}

/// While an idle server answers for its health and its metrics, the threads that compute do not run at all.
#[tokio::test]
async fn threads_of_an_idle_server_sleep() {
    let (_directory, path) = model_file();
    let mut process = Process::start(&path, &[]);
    process.ready();
    let channel = process.connect().await;
    collect(&channel, request(&[50, 60, 70], 20)).await;
    process.idle_metrics().await;
    // They may spin and yield for a moment after the last step.
    let last = RefCell::new(None);
    eventually("the threads sleep", || {
        let now = asleep(&process);
        now.as_ref().is_some_and(|threads| threads.len() == 2) && now == last.replace(now.clone())
    })
    .await;
    let before = asleep(&process).expect("they sleep");
    for _ in 0..100 {
        process.metrics();
    }
    assert_eq!(asleep(&process), Some(before));
}

/// The CPUs of a list such as `0-2,5`.
fn cpus(list: &str) -> Vec<usize> {
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        number(first)..=number(last)
    };
    list.split(',').flat_map(range).collect()
}

fn cpus_of(threads: &BTreeMap<String, Status>) -> Vec<Vec<usize>> {
    threads.values().map(|status| cpus(&status["Cpus_allowed_list"])).collect()
}

#[tokio::test]
async fn threads_are_bound_where_asked_and_nowhere_else() {
    let own = status(std::path::Path::new("/proc/self/status")).expect("Linux tells");
    let all = cpus(&own["Cpus_allowed_list"]);
    let threads = all.len().to_string();
    let (_directory, path) = model_file();
    let started = |flags: &[&str]| {
        let mut process = Process::start(&path, flags);
        process.ready();
        process
    };
    let process = started(&["--pin", "on", "--threads", &threads]);
    // The engine's thread binds itself after the server has said that it serves.
    let one_each: Vec<_> = all.iter().map(|&cpu| vec![cpu]).collect();
    let bound = || {
        let mut found = cpus_of(&computing(&process));
        found.sort();
        found
    };
    eventually("each thread has its own CPU", || bound() == one_each).await;
    let more = (all.len() + 1).to_string();
    for (flags, count) in
        [(&["--threads", &threads][..], all.len()), (&["--pin", "on", "--threads", &more][..], all.len() + 1)]
    {
        let process = started(flags);
        // A thread gives itself its name, and binds itself, when it first runs.
        eventually("all threads have started", || computing(&process).len() == count).await;
        collect(&process.connect().await, request(&[50, 60, 70], 4)).await;
        assert_eq!(cpus_of(&computing(&process)), vec![all.clone(); count], "{flags:?}");
    }
}
