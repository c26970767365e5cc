//! Over gRPC: tenants, their weights and priorities decide whose request runs next (`specs/06_GRPC_API.md`).

use crate::support::client::{
    Completion, Gate, Options, TestServer, assert_status, eventually, greedy_ids, request, retry_delay, text_of,
};
use llorch_cpud::server::proto::GenerateRequest;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::{Code, Status};

const PROMPT: [u32; 5] = [1, 70, 71, 72, 73];
/// Steps of a request that runs alone.
const STEPS: u64 = 3;

fn of(tenant: &str, priority: i32) -> GenerateRequest {
    GenerateRequest { tenant: tenant.into(), priority: Some(priority), ..request(&PROMPT, STEPS as u32) }
}

fn one_at_a_time(gate: &Gate) -> Options {
    let mut options = Options { gate: Some(gate.clone()), ..Default::default() };
    options.scheduler.max_num_seqs = 1;
    options
}

/// What must come although the gate lets no more steps through.
async fn now(completion: impl Future<Output = Result<Completion, Status>>) {
    let completion = tokio::time::timeout(Duration::from_secs(30), completion).await.expect("it was its turn");
    assert_eq!(completion.expect("a good end").text(), text_of(&greedy_ids(&PROMPT, STEPS as usize)));
}

/// API-16: 200 requests of one tenant wait, one of another comes last and is served next.
#[tokio::test]
async fn a_flood_of_one_tenant_does_not_hold_up_another() {
    covers!("API-16", "SCH-18");
    let gate = Gate::default();
    let server = TestServer::start(one_at_a_time(&gate)).await;
    let first = server.generate(of("many", 0)).await.expect("runs");
    gate.entered(1).await;
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.push(server.generate(of("many", 10)).await.expect("waits"));
    }
    let single = server.generate(of("few", -10)).await.expect("waits");
    gate.allow(2 * STEPS);
    now(first.collect()).await;
    now(single.collect()).await;
    server.load_where("the others wait", |load| load.waiting == 199 && load.running == 1).await;
    gate.open();
    for stream in flood {
        now(stream.collect()).await;
    }
    server.at_rest().await;
}

/// API-49: a tenant that has as many waiting as it may is refused, with the advice when to try again; others are not.
#[tokio::test]
async fn a_tenant_over_its_bound_is_refused_alone() {
    covers!("API-49");
    let gate = Gate::default();
    let mut options = one_at_a_time(&gate);
    options.queue.max_queued_per_tenant = 2;
    let server = TestServer::start(options).await;
    let mut streams = vec![server.generate(of("many", 0)).await.expect("runs")];
    gate.entered(1).await;
    for tenant in ["many", "many", "few", ""] {
        streams.push(server.generate(of(tenant, 0)).await.expect("waits"));
    }
    let status = server.refusal(of("many", 10)).await;
    assert_status(&status, Code::ResourceExhausted, "QUOTA");
    retry_delay(&status);
    assert_eq!(server.metric("llorch_admission_rejections_total{reason=\"quota\"}"), 1.0);
    streams.push(server.generate(of("few", 0)).await.expect("waits"));
    assert_status(&server.refusal(of("few", 0)).await, Code::ResourceExhausted, "QUOTA");
    gate.open();
    for stream in streams {
        now(stream.collect()).await;
    }
    now(server.generate(of("many", 0)).await.expect("there is room again").collect()).await;
    server.at_rest().await;
}

/// API-16: a tenant's requests of higher priority go first, whoever else waits.
#[tokio::test]
async fn priorities_order_the_requests_of_a_tenant() {
    covers!("API-16");
    let gate = Gate::default();
    let server = TestServer::start(one_at_a_time(&gate)).await;
    let first = server.generate(of("", 0)).await.expect("runs");
    gate.entered(1).await;
    let mut waiting = Vec::new();
    for priority in [0, -10, 10, 5] {
        waiting.push(server.generate(of("", priority)).await.expect("waits"));
    }
    gate.allow(STEPS);
    now(first.collect()).await;
    for place in [2, 2, 0, 0] {
        gate.allow(STEPS);
        now(waiting.remove(place).collect()).await;
    }
    server.at_rest().await;
}

/// API-16: of twelve requests that are served, three quarters are of the tenant with three times the weight.
#[tokio::test]
async fn weights_share_the_engine() {
    covers!("API-16");
    let gate = Gate::default();
    let options = Options { tenant_weights: vec![("heavy".into(), 3.0)], ..one_at_a_time(&gate) };
    let server = TestServer::start(options).await;
    let served = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        for (tenant, served) in ["light", "heavy"].into_iter().zip(&served) {
            let stream = server.generate(of(tenant, 0)).await.expect("waits");
            let served = Arc::clone(served);
            readers.spawn(async move {
                now(stream.collect()).await;
                served.fetch_add(1, Ordering::Relaxed);
            });
        }
    }
    let count = |tenant: usize| served[tenant].load(Ordering::Relaxed);
    gate.allow(12 * STEPS);
    eventually("twelve are served", || count(0) + count(1) == 12).await;
    assert!((2..=4).contains(&count(0)), "light {}, heavy {}", count(0), count(1));
    gate.open();
    readers.join_all().await;
}
