//! Whose turn it is: what each tenant was served, by its weight.
//!
//! Virtual token counters, after Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): each tenant has
//! a count of the tokens that were computed for it, divided by its weight, and the one with the lowest goes next. A
//! tenant that comes or comes back from a pause is lifted to the mean count of those who are there: what it left unused
//! is not kept for it, and tenants that come without end, each for the first time, do not keep out one that was served
//! more. (The paper lifts to the lowest count, which they would share for ever.)

use std::collections::BTreeMap;
use std::sync::Arc;

/// Tenants that have nothing here but were served more than others are remembered up to this number.
const MAX_IDLE: usize = 1024;
/// What one token costs a tenant of weight 1.
const TOKEN_COST: f64 = (1u64 << 20) as f64;

/// A tenant's place among all of them while it has sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantIndex(u32);

/// One tenant.
#[derive(Clone, Debug)]
struct Tenant {
    name: Arc<str>,
    /// What a token costs it: the more, the lower its weight.
    cost: u64,
    /// The costs of all tokens computed for it, and what it was lifted by.
    served: u64,
    /// Sequences that wait or run.
    num_sequences: u32,
}

/// The tenants that have sequences, and those that were served more than others shortly before.
#[derive(Clone, Debug, Default)]
pub struct Tenants {
    slots: Vec<Option<Tenant>>,
    vacant: Vec<u32>,
    by_name: BTreeMap<Arc<str>, TenantIndex>,
    costs: BTreeMap<Arc<str>, u64>,
    num_idle: usize,
}

impl Tenants {
    /// Weights of tenants that come from now on; 1 for who is not named. A weight is finite and above 0.
    pub fn set_weights(&mut self, weights: &[(Arc<str>, f64)]) {
        self.costs = weights.iter().map(|(name, weight)| (Arc::clone(name), cost(*weight))).collect();
    }

    /// A sequence of this tenant came.
    pub fn enter(&mut self, name: &Arc<str>) -> TenantIndex {
        let index = match self.by_name.get(name) {
            Some(&index) => index,
            None => self.insert(name),
        };
        if self.get(index).num_sequences == 0 {
            let mean = self.mean_served();
            let tenant = self.get_mut(index);
            tenant.served = mean.map_or(tenant.served, |mean| tenant.served.max(mean));
            self.num_idle -= 1;
        }
        self.get_mut(index).num_sequences += 1;
        index
    }

    /// `count` more sequences of a tenant that has some.
    pub fn add(&mut self, index: TenantIndex, count: u32) {
        self.get_mut(index).num_sequences += count;
    }

    /// A sequence ended.
    pub fn leave(&mut self, index: TenantIndex) {
        let tenant = self.get_mut(index);
        tenant.num_sequences -= 1;
        if tenant.num_sequences == 0 {
            let served = tenant.served;
            self.num_idle += 1;
            match self.lowest_served() {
                // Nobody is there: what was served before is no one's disadvantage any more.
                None => self.forget_all(),
                // The lowest count only rises, and no mean is below it: it would be lifted in any case.
                Some(lowest) if served <= lowest => self.remove(index),
                Some(lowest) => self.forget_some(lowest),
            }
        }
    }

    /// So many tokens are computed for a tenant.
    pub fn charge(&mut self, index: TenantIndex, num_tokens: u32) {
        let tenant = self.get_mut(index);
        tenant.served = tenant.served.saturating_add(tenant.cost.saturating_mul(u64::from(num_tokens)));
    }

    /// The tokens computed for a tenant that has sequences, by its weight: lower goes first.
    pub fn served(&self, index: TenantIndex) -> u64 {
        self.get(index).served
    }

    /// The name of a tenant that has sequences.
    pub fn name(&self, index: TenantIndex) -> &Arc<str> {
        &self.get(index).name
    }

    /// Sequences of each tenant that has some, by name: for checks.
    pub fn num_sequences(&self) -> impl Iterator<Item = (TenantIndex, u32)> {
        let all = self.by_name.values().map(|&index| (index, self.get(index).num_sequences));
        all.filter(|(_, count)| *count > 0)
    }

    /// Tenants that are remembered, with sequences or without.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    fn lowest_served(&self) -> Option<u64> {
        self.present().map(|tenant| tenant.served).min()
    }

    fn present(&self) -> impl Iterator<Item = &Tenant> {
        self.slots.iter().flatten().filter(|tenant| tenant.num_sequences > 0)
    }

    /// The mean count of those that have sequences, rounded up to a whole token of weight 1, so that counts of many
    /// that come one after the other reach the highest and do not only approach it. `None` where nobody is there.
    fn mean_served(&self) -> Option<u64> {
        let (count, sum) = self.present().fold((0u128, 0u128), |(n, sum), t| (n + 1, sum + u128::from(t.served)));
        let token = u128::from(TOKEN_COST as u64);
        let tokens = sum.div_ceil((count * token).max(1));
        (count > 0).then(|| u64::try_from(tokens * token).unwrap_or(u64::MAX))
    }

    fn insert(&mut self, name: &Arc<str>) -> TenantIndex {
        let cost = self.costs.get(name).copied().unwrap_or_else(|| cost(1.0));
        let tenant = Tenant { name: Arc::clone(name), cost, served: 0, num_sequences: 0 };
        let index = match self.vacant.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(tenant);
                TenantIndex(slot)
            }
            None => {
                self.slots.push(Some(tenant));
                TenantIndex(self.slots.len() as u32 - 1)
            }
        };
        self.by_name.insert(Arc::clone(name), index);
        self.num_idle += 1;
        index
    }

    fn remove(&mut self, index: TenantIndex) {
        if let Some(tenant) = self.slots[index.0 as usize].take() {
            self.by_name.remove(&tenant.name);
            self.vacant.push(index.0);
            self.num_idle -= 1;
        }
    }

    /// Forgets all tenants, but not the weights.
    pub fn forget_all(&mut self) {
        self.slots.clear();
        self.vacant.clear();
        self.by_name.clear();
        self.num_idle = 0;
    }

    /// Keeps the number of idle tenants bounded: names are what clients say, without end. Those go first that lose
    /// nothing by it, then those of the lowest counts.
    fn forget_some(&mut self, lowest: u64) {
        if self.num_idle <= MAX_IDLE {
            return;
        }
        let idle = |tenants: &Self, index: TenantIndex| tenants.get(index).num_sequences == 0;
        let mut gone: Vec<TenantIndex> = self.by_name.values().copied().filter(|&index| idle(self, index)).collect();
        gone.sort_by_key(|&index| (self.served(index), index));
        let half = gone.len() / 2;
        for (place, index) in gone.into_iter().enumerate() {
            if place < half || self.served(index) <= lowest {
                self.remove(index);
            }
        }
    }

    fn get(&self, index: TenantIndex) -> &Tenant {
        self.slots[index.0 as usize].as_ref().expect("a tenant with sequences is here")
    }

    fn get_mut(&mut self, index: TenantIndex) -> &mut Tenant {
        self.slots[index.0 as usize].as_mut().expect("a tenant with sequences is here")
    }
}

fn cost(weight: f64) -> u64 {
    (TOKEN_COST / weight).round().max(1.0) as u64
}
