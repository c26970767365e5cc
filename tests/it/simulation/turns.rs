//! Who is next, by the definition: an oracle beside the scheduler's queue.

use llorch_cpud::types::{SeqId, Turn};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A sequence, or a group by its first one, that waits for its first place.
#[derive(Clone, Debug)]
struct Waiting {
    id: SeqId,
    turn: Turn,
}

/// All that the turn of a sequence depends on. Weights are powers of two, so that the sums are exact.
#[derive(Default)]
pub struct Turns {
    weights: HashMap<Arc<str>, f64>,
    /// Tokens computed for a tenant, by its weight.
    served: BTreeMap<Arc<str>, f64>,
    waiting: Vec<Waiting>,
    /// Sequences that have not ended: their turns, and how many of their tokens were ever in the cache.
    alive: BTreeMap<SeqId, (Turn, u32)>,
}

impl Turns {
    pub fn new(weights: &[(Arc<str>, f64)]) -> Self {
        Self { weights: weights.iter().cloned().collect(), ..Self::default() }
    }

    pub fn submit(&mut self, id: SeqId, turn: &Turn) {
        let present: BTreeSet<&Arc<str>> = self.alive.values().map(|(other, _)| &other.tenant).collect();
        let is_there = present.contains(&turn.tenant);
        let sum: f64 = present.iter().map(|tenant| self.served[*tenant]).sum();
        let mean = if present.is_empty() { 0.0 } else { (sum / present.len() as f64).ceil() };
        let served = self.served.entry(Arc::clone(&turn.tenant)).or_default();
        if !is_there {
            *served = served.max(mean);
        }
        self.alive.insert(id, (turn.clone(), 0));
        self.waiting.push(Waiting { id, turn: turn.clone() });
    }

    /// Who is to have the next place that is free for one who had none. Ids are in the order of submission.
    pub fn next(&self) -> Option<SeqId> {
        let due = |turn: &Turn| turn.arrived_ms as i64 - 6_000 * i64::from(turn.priority);
        // The first of each tenant, then the tenant that got least; equal ones go by their first.
        let mut best: Option<(f64, (i64, SeqId))> = None;
        for one in &self.waiting {
            let (served, rank) = (self.served[&one.turn.tenant], (due(&one.turn), one.id));
            let is_first_of_its_tenant = (self.waiting.iter())
                .filter(|other| other.turn.tenant == one.turn.tenant)
                .all(|other| rank <= (due(&other.turn), other.id));
            if is_first_of_its_tenant && best.is_none_or(|best| (served, rank) < best) {
                best = Some((served, rank));
            }
        }
        best.map(|(_, (_, id))| id)
    }

    pub fn is_waiting(&self, id: SeqId) -> bool {
        self.waiting.iter().any(|one| one.id == id)
    }

    /// It is served, with `cached` tokens from the cache.
    pub fn start(&mut self, id: SeqId) {
        self.waiting.retain(|one| one.id != id);
    }

    /// Tokens `start .. end` of a sequence are computed: those that never were are its tenant's.
    pub fn compute(&mut self, id: SeqId, start: u32, end: u32) {
        let (turn, computed) = self.alive.get_mut(&id).expect("a sequence that lives");
        let new = end.saturating_sub(start.max(*computed));
        *computed = end.max(*computed);
        let weight = self.weights.get(&turn.tenant).copied().unwrap_or(1.0);
        *self.served.get_mut(&turn.tenant).expect("seen at submit") += f64::from(new) / weight;
    }

    /// So many sequences are to get their first token with one that is computed: one token each.
    pub fn begin_forks(&mut self, id: SeqId, count: u32) {
        let tenant = &self.alive[&id].0.tenant;
        let weight = self.weights.get(tenant).copied().unwrap_or(1.0);
        *self.served.get_mut(tenant).expect("seen at submit") += f64::from(count) / weight;
    }

    /// A sequence begins with the prompt of another.
    pub fn fork(&mut self, of: SeqId, id: SeqId, prompt_len: u32) {
        let (turn, _) = self.alive[&of].clone();
        self.alive.insert(id, (turn, prompt_len));
    }

    /// A sequence that begins with the prompt of another has found no place: it waits for its turn, with nothing
    /// computed.
    pub fn queue_fork(&mut self, id: SeqId) {
        let (turn, computed) = self.alive.get_mut(&id).expect("a sequence that lives");
        *computed = 0;
        let turn = turn.clone();
        self.waiting.push(Waiting { id, turn });
    }

    pub fn end(&mut self, id: SeqId) {
        self.alive.remove(&id);
        self.waiting.retain(|one| one.id != id);
        if self.alive.is_empty() {
            self.served.clear();
        }
    }
}
