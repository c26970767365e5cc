//! The estimate of the wait against the waits themselves: the real scheduler, steps that cost what a formula says,
//! requests that come at random, on a clock that is a number.
//!
//! `WAIT_SEED=n` runs one seed, `WAIT_SEEDS=n` the first n.

use crate::support::random::{Random, Replay, seeds};
use llorch_cpud::engine::backlog::{Backlog, Claim};
use llorch_cpud::engine::load::StepSample;
use llorch_cpud::engine::wait_estimate::{Candidate, WaitEstimator};
use llorch_cpud::scheduler::{Outcome, Scheduler, SchedulerConfig, Sharing, StepPlan};
use llorch_cpud::types::{SeqId, Turn};
use std::time::Duration;

/// Seconds of a step, of each sequence that decodes in it, and of each token of prefill.
const COST: (f64, f64, f64) = (0.020, 0.0008, 0.0004);
const MAX_QUEUED: u64 = 128;
/// Requests that are not judged: the estimator knows nothing yet.
const WARM_UP: usize = 40;

/// What comes.
#[derive(Clone, Copy, Debug)]
struct Traffic {
    /// Answers are as long as their limit.
    tight: bool,
    /// Blocks of the pool. With few of them it is not the places that are short.
    num_blocks: u32,
    /// The first sends three requests of four, the others share the rest.
    tenants: u32,
    /// Every fourth request has several sequences.
    groups: bool,
}

/// A sequence on its way. Times are in seconds.
#[derive(Clone, Debug)]
struct Request {
    claim: Claim,
    /// The first sequence of its request, and how many of it have not ended: kept with the first.
    first: usize,
    num_open: u32,
    arrival: f64,
    /// Tokens that it will generate, and those that it has.
    output: u32,
    generated: u32,
    estimate: f64,
    first_token: f64,
    end: f64,
    /// What it is given for everything.
    patience: f64,
    is_refused: bool,
}

/// A request that found the queue full.
#[derive(Clone, Copy, Debug)]
struct Rejected {
    at: f64,
    estimate: f64,
    /// There is room when so many have left the queue.
    goal: u64,
}

/// What a run came to.
#[derive(Default)]
struct Figures {
    /// |estimate - wait| / max(wait, one step) of those that waited for more than a few steps.
    errors: Vec<f64>,
    /// The same of the time until a full queue had room.
    room_errors: Vec<f64>,
    /// By their deadline, and those of them that would have kept it.
    refused: u32,
    refused_falsely: u32,
    /// Those that did not keep it.
    late: u32,
    served_per_second: f64,
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.room_errors.extend(other.room_errors);
        self.refused += other.refused;
        self.refused_falsely += other.refused_falsely;
        self.late += other.late;
    }
}

struct Run {
    traffic: Traffic,
    /// Requests in a second.
    rate: f64,
    random: Random,
    scheduler: Scheduler,
    estimator: WaitEstimator,
    backlog: Backlog,
    requests: Vec<Request>,
    /// Came since the step began.
    inbox: Vec<SeqId>,
    rejected: Vec<Rejected>,
    num_started: u64,
    now: f64,
    next_arrival: f64,
    figures: Figures,
}

fn log_uniform(random: &mut Random, low: f64, high: f64) -> f64 {
    low * (high / low).powf(f64::from(random.unit()))
}

impl Run {
    fn new(seed: u64, traffic: Traffic, rate: f64) -> Self {
        let config = SchedulerConfig {
            max_num_seqs: 16,
            max_num_batched_tokens: 256,
            num_blocks: traffic.num_blocks,
            block_size: 16,
            max_model_len: 1024,
        };
        Self {
            traffic,
            rate,
            random: Random::new(seed),
            scheduler: Scheduler::new(config).expect("valid limits"),
            estimator: WaitEstimator::default(),
            backlog: Backlog::default(),
            requests: Vec::new(),
            inbox: Vec::new(),
            rejected: Vec::new(),
            num_started: 0,
            now: 0.0,
            next_arrival: 0.0,
            figures: Figures::default(),
        }
    }

    fn run(mut self, count: usize) -> Figures {
        while self.requests.len() < count {
            if !self.scheduler.has_work() && self.inbox.is_empty() {
                self.now = self.now.max(self.next_arrival);
                self.arrivals_until(self.now);
            }
            self.step();
        }
        while self.scheduler.has_work() || !self.inbox.is_empty() {
            self.next_arrival = f64::INFINITY;
            self.step();
        }
        self.judge();
        self.figures
    }

    /// All that comes until `time`, at times that are independent of each other.
    fn arrivals_until(&mut self, time: f64) {
        while self.next_arrival <= time {
            let at = self.next_arrival;
            self.next_arrival -= f64::from(1.0 - self.random.unit()).ln() / self.rate;
            self.arrive(at);
        }
    }

    fn arrive(&mut self, at: f64) {
        let random = &mut self.random;
        let prompt_tokens = log_uniform(random, 16.0, 512.0) as u32;
        let max_tokens = if self.traffic.tight { log_uniform(random, 8.0, 256.0) as u32 } else { 256 };
        let natural = 1 - (f64::from(1.0 - random.unit()).ln() * 64.0) as i32;
        let output = if self.traffic.tight { max_tokens } else { max_tokens.min(natural.unsigned_abs().max(1)) };
        let patience = log_uniform(random, 0.5, 60.0);
        let other = random.range(1, self.traffic.tenants.max(2) - 1);
        let tenant = if self.traffic.tenants > 1 && random.one_in(4) { other } else { 0 };
        let n = if self.traffic.groups && random.one_in(4) { random.range(2, 12) } else { 1 };
        let claim = Claim { tenant: tenant.to_string().into(), n, prompt_tokens, max_tokens, kv_blocks: 0 };
        if self.backlog.all().queued >= MAX_QUEUED {
            // As the admission does: until an eighth of the bound is free.
            let estimate = self.estimator.until_started(&self.backlog.part_of_all(1.0 / 8.0));
            self.rejected.push(Rejected { at, estimate, goal: self.num_started + MAX_QUEUED / 8 });
            return;
        }
        let candidate = Candidate { prompt_tokens, max_tokens };
        let ahead = self.backlog.ahead_of(&claim.tenant);
        let wait = self.estimator.wait(&ahead, &candidate);
        self.backlog.enter(&claim);
        let first = self.requests.len();
        self.inbox.push(SeqId(first as u64));
        let sequence = Request {
            claim,
            first,
            num_open: n,
            arrival: at,
            output,
            generated: 0,
            estimate: wait.first_token,
            first_token: 0.0,
            end: 0.0,
            patience,
            is_refused: wait.misses(patience),
        };
        self.requests.extend(vec![sequence; n as usize]);
    }

    fn step(&mut self) {
        for id in std::mem::take(&mut self.inbox) {
            let Request { claim, arrival, .. } = &self.requests[id.0 as usize];
            let arrived_ms = (arrival * 1e3) as u64;
            let turn = Turn { tenant: claim.tenant.clone(), priority: 0, arrived_ms };
            let prompt = vec![1; claim.prompt_tokens as usize];
            let sharing = Sharing { n: claim.n, domain: None };
            self.scheduler.submit(id, &prompt, claim.max_tokens, sharing, &turn).expect("fits");
        }
        let mut plan = StepPlan::default();
        self.scheduler.plan(&mut plan, u32::MAX);
        for first in &plan.first_scheduled {
            let request = &self.requests[first.id.0 as usize];
            self.backlog.leave_queue(&request.claim, request.first as u64 == first.id.0);
        }
        self.num_started += plan.first_scheduled.len() as u64;
        let (now, num_started) = (self.now, self.num_started);
        for rejected in self.rejected.extract_if(.., |rejected| rejected.goal <= num_started) {
            let actual = now - rejected.at;
            self.figures.room_errors.push((rejected.estimate - actual).abs() / actual);
        }
        self.estimator.see(&self.scheduler);
        let prefill_tokens = plan.num_prompt_tokens + plan.num_recomputed_tokens;
        let decoding = plan.num_tokens - prefill_tokens;
        let seconds = COST.0 + COST.1 * f64::from(decoding) + COST.2 * f64::from(prefill_tokens);
        let end = self.now + seconds;
        self.arrivals_until(end);
        self.now = end;
        let outcomes: Vec<Outcome> = plan.samples().map(|sample| self.sample(sample.id)).collect();
        self.scheduler.commit(&plan, &outcomes);
        self.backlog.set_begun(self.scheduler.queue().begun());
        self.estimator.see(&self.scheduler);
        self.estimator.observe_step(&StepSample {
            duration: Duration::from_secs_f64(seconds),
            prompt_tokens: plan.num_prompt_tokens,
            cached_tokens: 0,
            prefill_tokens,
            decoding,
            generated_tokens: outcomes.len() as u32,
        });
    }

    fn sample(&mut self, id: SeqId) -> Outcome {
        let request = &mut self.requests[id.0 as usize];
        let is_last = request.generated + 1 == request.output;
        self.estimator.observe_token(request.generated, is_last && request.output < request.claim.max_tokens);
        if request.generated == 0 {
            request.first_token = self.now;
        }
        request.generated += 1;
        if is_last {
            request.end = self.now;
            let first = request.first;
            self.requests[first].num_open -= 1;
            if self.requests[first].num_open == 0 {
                self.backlog.end(&self.requests[first].claim);
            }
            return Outcome::Finish;
        }
        Outcome::Append(1)
    }

    fn judge(&mut self) {
        let step = COST.0 + 16.0 * COST.1;
        for (number, request) in self.requests.iter().enumerate().skip(WARM_UP) {
            if number != request.first {
                continue;
            }
            let waited = request.first_token - request.arrival;
            if waited > 4.0 * step {
                self.figures.errors.push((request.estimate - waited).abs() / waited.max(step));
            }
            let ends = self.requests[number..].iter().take_while(|one| one.first == number).map(|one| one.end);
            let in_time = ends.fold(0.0, f64::max) - request.arrival <= request.patience;
            self.figures.late += u32::from(!in_time);
            self.figures.refused += u32::from(request.is_refused);
            self.figures.refused_falsely += u32::from(request.is_refused && in_time);
        }
        self.figures.served_per_second = self.requests.len() as f64 / self.now;
    }
}

/// The value that a share of them does not exceed.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// Requests of a run that are looked at, by `WAIT_REQUESTS`.
fn num_requests() -> usize {
    std::env::var("WAIT_REQUESTS").map_or(300, |text| text.parse().expect("a number"))
}

/// All kinds of traffic, from half of what can be served to three times as much. `WAIT_SHOW=1` prints each.
#[test]
fn the_estimate_is_near_what_requests_wait() {
    covers!("API-51", "API-33");
    let show = std::env::var("WAIT_SHOW").is_ok();
    for seed in seeds("WAIT_SEED", "WAIT_SEEDS", 1) {
        let _replay = Replay { variable: "WAIT_SEED", seed };
        let mut all = Figures::default();
        for (tight, num_blocks, tenants, groups) in [
            (true, 512, 1, false),
            (false, 512, 1, false),
            (false, 150, 1, false),
            (false, 512, 4, false),
            (false, 512, 1, true),
            (false, 512, 4, true),
        ] {
            let traffic = Traffic { tight, num_blocks, tenants, groups };
            let capacity = Run::new(seed, traffic, 1000.0).run(WARM_UP + 260).served_per_second;
            for load in [0.5, 0.9, 1.2, 3.0] {
                let mut figures = Run::new(seed + 1, traffic, capacity * load).run(WARM_UP + num_requests());
                let p90 = quantile(&mut figures.errors, 0.9);
                let room_p90 = quantile(&mut figures.room_errors, 0.9);
                if show {
                    let median = quantile(&mut figures.errors, 0.5);
                    let (waited, full) = (figures.errors.len(), figures.room_errors.len());
                    let (late, refused, falsely) = (figures.late, figures.refused, figures.refused_falsely);
                    eprintln!("{traffic:?} {capacity:.2}/s x {load}: {waited} waited, p50 {median:.2} p90 {p90:.2};");
                    eprintln!("  {full} no room, p90 {room_p90:.2}; {late} late, {refused} refused, {falsely} falsely");
                }
                if groups {
                    // Their sequences leave the queue together and take their places one by one: times are less exact.
                    (figures.errors, figures.room_errors) = (Vec::new(), Vec::new());
                }
                all.add(figures);
            }
        }
        let (p90, room_p90) = (quantile(&mut all.errors, 0.9), quantile(&mut all.room_errors, 0.9));
        let counts = (all.errors.len(), all.room_errors.len(), all.refused);
        if show {
            eprintln!("all: {counts:?} error p90 {p90:.3}, room p90 {room_p90:.3}, {} falsely", all.refused_falsely);
        }
        assert!(p90 < 0.5 && room_p90 < 0.5, "errors of 9 in 10 up to {p90} and {room_p90}");
        assert!(
            all.refused_falsely * 50 < all.refused,
            "{} of {} would have made it",
            all.refused_falsely,
            all.refused
        );
        // Refusals catch what is hopeless.
        assert!(all.refused * 2 > all.late, "{} refused, {} late", all.refused, all.late);
    }
}
