//! Sequences that never had a place, and which of them is next.
//!
//! First the tenant that was served least, then the one of its sequences that came first, where each level of priority
//! counts as [`AGEING_MS`] of waiting. That is ageing in closed form: the order of two sequences never changes while
//! they wait, and what comes later than the span between the highest and the lowest priority overtakes nobody.

use super::Sequence;
use super::tenants::{TenantIndex, Tenants};
use crate::types::{SeqId, Turn};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// A level of priority counts as so many milliseconds of waiting.
pub const AGEING_MS: i64 = 6_000;

/// When the turn of a sequence comes among those of its tenant.
pub(super) fn due_ms(turn: &Turn) -> i64 {
    let arrived = i64::try_from(turn.arrived_ms).unwrap_or(i64::MAX);
    arrived.saturating_sub(i64::from(turn.priority).saturating_mul(AGEING_MS))
}

/// Place among a tenant's own: when it is due, in milliseconds, then the order of submission.
type Rank = (i64, u64);

/// Where a sequence waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    tenant: TenantIndex,
    rank: Rank,
}

/// The waiting sequences of all tenants.
#[derive(Clone, Debug, Default)]
pub struct FairQueue {
    tenants: Tenants,
    /// Of each tenant that has any, in order.
    waiting: BTreeMap<TenantIndex, BTreeMap<Rank, Sequence>>,
    /// By the id of the first sequence of a group.
    places: BTreeMap<SeqId, Place>,
    num_sequences: u64,
    num_tokens: u64,
    begun: BTreeMap<TenantIndex, Begun>,
}

/// Sums of the queued sequences of a tenant that have a token: forks that found no place when their group began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    pub num_sequences: u64,
    /// Known tokens.
    pub num_tokens: u64,
    /// Tokens that they can come to generate still.
    pub num_to_come: u64,
}

impl FairQueue {
    /// See `Tenants::set_weights`.
    pub fn set_weights(&mut self, weights: &[(Arc<str>, f64)]) {
        self.tenants.set_weights(weights);
    }

    /// A sequence of this tenant comes; the index goes into it.
    pub fn enter(&mut self, tenant: &Arc<str>) -> TenantIndex {
        self.tenants.enter(tenant)
    }

    /// Queues a sequence whose tenant has entered.
    pub fn push(&mut self, sequence: Sequence) {
        let (rank, tenant) = ((sequence.due_ms(), sequence.arrival()), sequence.tenant());
        self.num_sequences += 1 + u64::from(sequence.num_forks());
        self.num_tokens += u64::from(sequence.num_tokens());
        if sequence.num_generated_tokens() > 0 {
            let begun = self.begun.entry(tenant).or_default();
            begun.num_sequences += 1;
            begun.num_tokens += u64::from(sequence.num_tokens());
            begun.num_to_come += u64::from(sequence.max_len() - sequence.num_tokens());
        }
        self.places.insert(sequence.id(), Place { tenant, rank });
        self.waiting.entry(tenant).or_default().insert(rank, sequence);
    }

    /// The place of the sequence whose turn it is. Takes time with the number of tenants that wait.
    pub fn next(&self) -> Option<Place> {
        let place = |(&tenant, waiting): (&TenantIndex, &BTreeMap<Rank, Sequence>)| {
            waiting.keys().next().map(|&rank| (self.tenants.served(tenant), rank, tenant))
        };
        self.waiting.iter().filter_map(place).min().map(|(_, rank, tenant)| Place { tenant, rank })
    }

    /// The sequence whose turn it is.
    pub fn first(&self) -> Option<&Sequence> {
        let place = self.next()?;
        self.waiting.get(&place.tenant)?.get(&place.rank)
    }

    /// The sequence at a place, to be looked up in the prefix cache.
    pub fn at_mut(&mut self, place: Place) -> Option<&mut Sequence> {
        self.waiting.get_mut(&place.tenant)?.get_mut(&place.rank)
    }

    /// Takes the sequence out that is `id` or is to begin it.
    pub fn remove(&mut self, id: SeqId) -> Option<Sequence> {
        self.get(id)?;
        let place = *self.places.range(..=id).next_back()?.1;
        self.take(place)
    }

    /// The sequence that is `id` or is to begin it.
    pub fn get(&self, id: SeqId) -> Option<&Sequence> {
        let place = self.places.range(..=id).next_back()?.1;
        self.waiting.get(&place.tenant)?.get(&place.rank).filter(|sequence| sequence.covers(id))
    }

    /// Whether a sequence, or one that it is to begin, has an id of `first ..= last`.
    pub fn overlaps(&self, first: SeqId, last: SeqId) -> bool {
        self.get(first).is_some() || self.places.range(first..=last).next().is_some()
    }

    /// All of them, the tenants one after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Sequence> {
        self.waiting.values().flat_map(BTreeMap::values)
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Sequences, with those that are to begin with their prompts.
    pub fn num_sequences(&self) -> u64 {
        self.num_sequences
    }

    /// Their known tokens; a prompt counts once.
    pub fn num_tokens(&self) -> u64 {
        self.num_tokens
    }

    /// Those of them that have a token, by tenant.
    pub fn begun(&self) -> impl Iterator<Item = (&Arc<str>, Begun)> {
        self.begun.iter().map(|(&tenant, &begun)| (self.tenants.name(tenant), begun))
    }

    pub fn tenants(&self) -> &Tenants {
        &self.tenants
    }

    pub fn tenants_mut(&mut self) -> &mut Tenants {
        &mut self.tenants
    }

    /// Forgets all sequences and what was served, but not the weights.
    pub fn reset(&mut self) {
        self.tenants.forget_all();
        self.waiting.clear();
        self.places.clear();
        self.num_sequences = 0;
        self.num_tokens = 0;
        self.begun.clear();
    }

    /// Takes the sequence at a place out. Its tenant still has it.
    pub fn take(&mut self, Place { tenant, rank }: Place) -> Option<Sequence> {
        let waiting = self.waiting.get_mut(&tenant)?;
        let sequence = waiting.remove(&rank)?;
        if waiting.is_empty() {
            self.waiting.remove(&tenant);
        }
        self.places.remove(&sequence.id());
        self.num_sequences -= 1 + u64::from(sequence.num_forks());
        self.num_tokens -= u64::from(sequence.num_tokens());
        if let Entry::Occupied(mut entry) = self.begun.entry(tenant)
            && sequence.num_generated_tokens() > 0
        {
            let begun = entry.get_mut();
            begun.num_sequences -= 1;
            begun.num_tokens -= u64::from(sequence.num_tokens());
            begun.num_to_come -= u64::from(sequence.max_len() - sequence.num_tokens());
            if begun.num_sequences == 0 {
                entry.remove();
            }
        }
        Some(sequence)
    }
}
