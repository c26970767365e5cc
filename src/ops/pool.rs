//! The worker pool: fork-join over numbered units, one dispatch and one join an op.
//!
//! The caller of [`Pool::run`] is worker 0; the other workers are threads the pool owns for its whole life. A run is
//! published by one store to `Shared::state`; whoever sees it enters, claims units from a shared counter and leaves.
//! The join closes the run and waits for the workers that entered, so a worker that was asleep or descheduled never
//! delays a run it took no part in. See `specs/decisions/0001-one-barrier-an-op.md`.
//!
//! Between runs a worker spins, then yields, then parks; [`Pool::begin_step`] makes it wait longer before it parks.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};

mod backoff;
#[cfg(test)]
mod tests;

use backoff::Backoff;

/// The most threads a pool may have.
pub const MAX_THREADS: usize = 1024;

/// A pool could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("threads {0}: must be 1 to {MAX_THREADS}")]
    Threads(usize),
    #[error("thread llorch-worker-{index}: {source}")]
    Spawn { index: usize, source: std::io::Error },
}

/// A fixed set of threads that run numbered units of work.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// Keeps the workers awake between runs until it is dropped. Made by [`Pool::begin_step`].
pub struct StepGuard<'a> {
    shared: &'a Shared,
}

/// A run's closure with its lifetime erased. Only dereferenced by threads that entered the run.
type Job = *const (dyn Fn(usize) + Sync);

/// The state word, from the low bits: 16 bits of workers inside the run, two flags, 32 bits of epoch.
const INSIDE: u64 = 0xffff;
/// The run may be entered.
const OPEN: u64 = 1 << 16;
/// The caller is parked, or about to be, until no worker is inside.
const CALLER_WAITS: u64 = 1 << 17;
const EPOCH_SHIFT: u32 = 32;

/// Pauses before the first yield: about as long as a serial stretch between two ops of a step.
const SPINS: u32 = 2000;
/// Yields before parking, between steps and within one.
const YIELDS_COLD: u32 = 20;
const YIELDS_HOT: u32 = 2000;

/// One cache line each, so that the claim counter does not slow the readers of the state word.
#[repr(align(128))]
struct Line<T>(T);

struct Shared {
    state: Line<AtomicU64>,
    /// Next unit to claim.
    next: Line<AtomicUsize>,
    /// The closure and number of units of the current run. Written only while the run is closed and nobody is inside.
    job: UnsafeCell<Option<(Job, usize)>>,
    /// A run is in progress: set for its whole length by the caller.
    busy: AtomicBool,
    /// Steps in progress: workers wait longer before they park.
    hot: AtomicUsize,
    shutdown: AtomicBool,
    /// The first panic of the run.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// The thread to wake when [`CALLER_WAITS`] is set.
    caller: Mutex<Option<Thread>>,
    /// One flag a worker thread: it is parked or about to be.
    parked: Vec<Line<AtomicBool>>,
    /// The CPU of each worker, the caller's first; empty where they run where the system puts them.
    cpus: Vec<usize>,
    spins: u32,
}

// SAFETY: `job` is the only field that is not Sync. It is written by the caller of `run` alone (`busy` admits one), at
// a time when no worker is inside, and read by workers only after they entered: the entering compare-exchange
// (Acquire) reads the publishing store (Release) and the closing load of the caller (Acquire) reads the leaving
// decrement (Release).
unsafe impl Sync for Shared {}
// SAFETY: the job pointer is only dereferenced during a run, on closures that are Sync; nothing else is thread-bound.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` workers (1 to [`MAX_THREADS`]), the calling thread of each run counted.
    pub fn new(threads: usize) -> Result<Self, PoolError> {
        Self::start(threads, Vec::new())
    }

    /// As [`Pool::new`], with each thread of the pool bound to a CPU of its own, where the system allows it. Only where
    /// there are as many CPUs as threads: which of more should be taken would be a guess that another process may make
    /// as well. The thread that calls [`Pool::run`] is the business of its owner: see [`Pool::bind_caller`].
    pub fn bound(threads: usize) -> Result<Self, PoolError> {
        let cpus = allowed_cpus();
        Self::start(threads, if cpus.len() == threads { cpus } else { Vec::new() })
    }

    fn start(threads: usize, cpus: Vec<usize>) -> Result<Self, PoolError> {
        if threads == 0 || threads > MAX_THREADS {
            return Err(PoolError::Threads(threads));
        }
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let shared = Arc::new(Shared {
            state: Line(AtomicU64::new(0)),
            next: Line(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            busy: AtomicBool::new(false),
            hot: AtomicUsize::new(0),
            shutdown: AtomicBool::new(false),
            panic: Mutex::new(None),
            caller: Mutex::new(None),
            parked: (1..threads).map(|_| Line(AtomicBool::new(false))).collect(),
            cpus,
            // With more threads than cores a spinning worker holds the core another one needs.
            spins: if threads > cores { 0 } else { SPINS },
        });
        let mut pool = Self { shared, workers: Vec::with_capacity(threads - 1) };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("llorch-worker-{index}"))
                .spawn(move || shared.work(index - 1))
                .map_err(|source| PoolError::Spawn { index, source })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Workers, the caller counted.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Binds the calling thread to the CPU of worker 0: for a thread that does little but call [`Pool::run`]. Without
    /// effect on a pool that was not made by [`Pool::bound`].
    pub fn bind_caller(&self) {
        if let Some(&cpu) = self.shared.cpus.first() {
            bind(cpu);
        }
    }

    /// Wakes the workers and keeps them awake between runs until the guard is dropped: call it once a step.
    #[must_use = "the workers go back to sleep when the guard is dropped"]
    pub fn begin_step(&self) -> StepGuard<'_> {
        self.shared.hot.fetch_add(1, Ordering::SeqCst);
        self.wake(self.workers.len());
        StepGuard { shared: &self.shared }
    }

    /// Calls `unit(i)` exactly once for each `i` in `0..units`, on any worker and in any order, and returns when all
    /// calls have returned. Does not allocate.
    ///
    /// # Panics
    /// With the panic of a unit, after all workers have left; units that had not started then are skipped. Also if a
    /// run of this pool is already in progress: a unit must not call `run`, and neither may a second thread.
    pub fn run(&self, units: usize, unit: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        if shared.busy.swap(true, Ordering::Acquire) {
            panic!("Pool::run called during a run of the same pool: from inside a unit, or from a second thread");
        }
        let _busy = ResetOnDrop(&shared.busy);
        if self.workers.is_empty() || units <= 1 {
            (0..units).for_each(unit);
            return;
        }
        shared.publish(unit, units);
        self.wake(self.workers.len().min(units - 1));
        // From here to the end of `join` nothing may unwind: workers hold a pointer to `unit`.
        shared.claim_units(unit, units);
        shared.join();
        let panic = lock(&shared.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Unparks up to `count` workers that are parked.
    fn wake(&self, count: usize) {
        let mut left = count;
        for (worker, parked) in self.workers.iter().zip(&self.shared.parked) {
            if left == 0 {
                return;
            }
            if parked.0.load(Ordering::SeqCst) && parked.0.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
            left -= 1;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of units; there is nothing else to report.
            let _ = worker.join();
        }
    }
}

impl Drop for StepGuard<'_> {
    fn drop(&mut self) {
        self.shared.hot.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    /// Opens a run. The caller holds `busy`, and the previous run was joined.
    fn publish(&self, unit: &(dyn Fn(usize) + Sync), units: usize) {
        // SAFETY: only the lifetime changes. The pointer is dereferenced between a worker's entering and leaving, and
        // `join` returns, before `unit` can go, only when no worker is inside and none can enter any more.
        let job: Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(unit) };
        // SAFETY: the run is closed and nobody is inside (the last `join` saw to it), so nobody reads the cell.
        unsafe { *self.job.get() = Some((job, units)) };
        self.next.0.store(0, Ordering::Relaxed);
        let epoch = (self.state.0.load(Ordering::Relaxed) >> EPOCH_SHIFT) as u32;
        let next = (u64::from(epoch.wrapping_add(1)) << EPOCH_SHIFT) | OPEN;
        // SeqCst: ordered with the `parked` flags, so that either the caller sees the flag or the worker sees the run.
        self.state.0.store(next, Ordering::SeqCst);
    }

    /// Runs units until none is left. A panic is kept for the caller and the units not yet claimed are skipped.
    fn claim_units(&self, unit: &(dyn Fn(usize) + Sync), units: usize) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next.0.fetch_add(1, Ordering::Relaxed);
                if index >= units {
                    return;
                }
                unit(index);
            }
        }));
        if let Err(panic) = result {
            self.next.0.store(units, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(panic);
        }
    }

    /// Closes the run and waits until every worker that entered has left.
    fn join(&self) {
        let mut state = self.state.0.fetch_and(!OPEN, Ordering::AcqRel);
        let mut wait = Backoff::new(self.spins, YIELDS_HOT);
        while state & INSIDE != 0 {
            if !wait.pause() {
                *lock(&self.caller) = Some(std::thread::current());
                if self.state.0.fetch_or(CALLER_WAITS, Ordering::AcqRel) & INSIDE != 0 {
                    std::thread::park();
                }
            }
            state = self.state.0.load(Ordering::Acquire);
        }
    }

    /// The life of a worker thread.
    fn work(&self, index: usize) {
        if let Some(&cpu) = self.cpus.get(index + 1) {
            bind(cpu);
        }
        let mut seen = 0;
        while !self.shutdown.load(Ordering::Relaxed) {
            let state = self.wait_for_run(seen, index);
            seen = epoch(state);
            if state & OPEN != 0 && self.enter(state) {
                // SAFETY: this thread is inside the run, so the cell is not written and the closure is alive.
                let (unit, units) = unsafe { (*self.job.get()).map_or((None, 0), |(job, units)| (Some(&*job), units)) };
                if let Some(unit) = unit {
                    self.claim_units(unit, units);
                }
                self.leave();
            }
        }
    }

    /// Waits for an epoch other than `seen`, or for the shutdown, and returns the state word.
    fn wait_for_run(&self, seen: u32, index: usize) -> u64 {
        let mut wait = Backoff::new(self.spins, YIELDS_COLD);
        loop {
            let state = self.state.0.load(Ordering::Acquire);
            if epoch(state) != seen || self.shutdown.load(Ordering::Relaxed) {
                return state;
            }
            wait.yields = if self.hot.load(Ordering::Relaxed) > 0 { YIELDS_HOT } else { YIELDS_COLD };
            if !wait.pause() {
                let parked = &self.parked[index].0;
                parked.store(true, Ordering::SeqCst);
                let nothing_to_do = epoch(self.state.0.load(Ordering::SeqCst)) == seen;
                if nothing_to_do && !self.shutdown.load(Ordering::SeqCst) {
                    std::thread::park();
                }
                parked.store(false, Ordering::SeqCst);
                wait = Backoff::new(self.spins, YIELDS_COLD);
            }
        }
    }

    /// Counts this worker in, unless the run of `state` was closed meanwhile.
    fn enter(&self, mut state: u64) -> bool {
        let run = epoch(state);
        loop {
            match self.state.0.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) if epoch(now) == run && now & OPEN != 0 => state = now,
                Err(_) => return false,
            }
        }
    }

    /// Counts this worker out; the last one wakes a caller that parked.
    fn leave(&self) {
        let before = self.state.0.fetch_sub(1, Ordering::AcqRel);
        if before & INSIDE == 1
            && before & CALLER_WAITS != 0
            && let Some(caller) = &*lock(&self.caller)
        {
            caller.unpark();
        }
    }
}

fn epoch(state: u64) -> u32 {
    (state >> EPOCH_SHIFT) as u32
}

/// Locks a mutex whose data is valid at every moment, so a panic elsewhere while it was held means nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clears the flag at the end of a scope, also when it unwinds.
struct ResetOnDrop<'a>(&'a AtomicBool);

impl Drop for ResetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The CPUs in the calling thread's affinity, ascending. Empty where the system does not tell.
fn allowed_cpus() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: all zeros is an empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the size given is that of `set`, which the call fills; 0 is the calling thread.
        if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) } == 0 {
            let cpus = 0..libc::CPU_SETSIZE as usize;
            // SAFETY: every number is below CPU_SETSIZE, so inside the set.
            return cpus.filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect();
        }
    }
    Vec::new()
}

/// Binds the calling thread to a CPU of [`allowed_cpus`]. Where the system refuses, it runs where it did before.
fn bind(cpu: usize) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: all zeros is an empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the numbers of `allowed_cpus` are below CPU_SETSIZE; the call reads the set and keeps nothing.
        unsafe {
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(0, size_of_val(&set), &set);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = cpu;
}
