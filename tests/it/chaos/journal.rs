//! The book that a test keeps of a server's trace events: every request that was queued ends once.

use std::collections::HashMap;
use std::io::BufRead;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Each of its sequences finished.
    Well,
    Failed,
}

/// A request whose end was not told yet.
struct Open {
    n: u32,
    finished: u32,
}

/// What the events of a process come to.
#[derive(Default)]
pub struct Journal {
    open: HashMap<String, Open>,
    pub ended: HashMap<String, Ended>,
    pub first_scheduled: u64,
    pub preempted: u64,
    pub finished: u64,
    /// Sequences that failed, each with its request.
    pub failed: u64,
    /// Those of them whose logits were not finite.
    pub poisoned: u64,
    /// Events that no order of events allows, and warnings and errors of the log.
    pub surprises: Vec<String>,
}

impl Journal {
    /// Reads a log to its end.
    pub fn read(log: impl BufRead) -> Self {
        let mut journal = Self::default();
        for line in log.lines() {
            let line = line.expect("UTF-8");
            if !journal.note(&line) {
                journal.surprises.push(line);
            }
        }
        journal
    }

    pub fn num_open(&self) -> usize {
        self.open.len()
    }

    /// Takes in a line. False where it should not be there.
    fn note(&mut self, line: &str) -> bool {
        let Some((_, span)) = line.split_once("request{id=\"") else {
            return !line.contains(" WARN ") && !line.contains("ERROR") && !line.contains("panicked");
        };
        let parts = || {
            let (id, rest) = span.split_once('"')?;
            let (fields, event) = rest.split_once("}: llorch_cpud::request: ")?;
            let n = fields.rsplit_once("n=")?.1.parse().ok()?;
            Some((id, n, event))
        };
        parts().is_some_and(|(id, n, event)| self.event(id, n, event))
    }

    fn event(&mut self, id: &str, n: u32, event: &str) -> bool {
        if event == "queued" {
            let is_new = !self.ended.contains_key(id);
            return is_new && self.open.insert(id.into(), Open { n, finished: 0 }).is_none();
        }
        let Some(open) = self.open.get_mut(id) else { return false };
        let (name, fields) = event.split_once(' ').unwrap_or((event, ""));
        let ended = match name {
            "first_scheduled" => {
                self.first_scheduled += 1;
                return true;
            }
            "first_token" => return true,
            "preempted" => {
                self.preempted += 1;
                return true;
            }
            "finished" => {
                self.finished += 1;
                open.finished += 1;
                if open.finished < open.n {
                    return true;
                }
                Ended::Well
            }
            "failed" => {
                let sequences = u64::from(open.n - open.finished);
                self.failed += sequences;
                if fields == "error=logits are not finite" {
                    self.poisoned += sequences;
                }
                Ended::Failed
            }
            _ => return false,
        };
        self.open.remove(id);
        self.ended.insert(id.into(), ended);
        true
    }
}
