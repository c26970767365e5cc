//! Bad neighbours: while clients vanish, pass their deadlines, fill the queue and send what no request may hold, a
//! control stream of the same process keeps giving the bytes that it gives alone, and every block comes back.

use crate::support::client::{Output, Stream, metric, request};
use crate::support::process::{Process, collect, model_file};
use futures_util::future::join_all;
use llorch_cpud::server::proto::inference_client::InferenceClient;
use llorch_cpud::server::proto::{GenerateRequest, SamplingParams, StoppingOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Request};

fn control() -> GenerateRequest {
    let sampling = SamplingParams { temperature: Some(0.9), seed: Some(77), ..Default::default() };
    GenerateRequest { sampling: Some(sampling), ..request(&[1, 60, 70, 80], 150) }
}

/// Repeats the control stream until told to stop; every run that a full queue lets in equals `alone`. Returns the runs.
async fn control_streams(channel: Channel, alone: Vec<Output>, stop: Arc<AtomicBool>) -> u32 {
    let mut runs = 0;
    loop {
        let last = stop.load(Ordering::Relaxed);
        match InferenceClient::new(channel.clone()).generate(control()).await {
            Ok(stream) => {
                let completion = Stream(stream.into_inner()).collect().await.expect("a good end");
                assert_eq!(completion.outputs(), alone, "control run {runs}");
                runs += 1;
                if last {
                    return runs;
                }
            }
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}"),
        }
    }
}

/// Streams that are dropped after 0, 1, 2 … events. Of two sequences, so that few of them can end before the server
/// hears that the client is gone, and so that all of them fit into the queue.
async fn vanish(channel: &Channel) {
    for events in 0..24 {
        let mut client = InferenceClient::new(channel.clone());
        let wanted = GenerateRequest { n: Some(2), ..request(&[1, 50 + events], 200) };
        let mut stream = Stream(client.generate(wanted).await.expect("accepted").into_inner());
        for _ in 0..events {
            stream.next().await.expect("it runs");
        }
    }
}

/// Deadlines of 0 to some milliseconds: each ends in time or with the one status there is for it.
async fn pass_deadlines(channel: &Channel) {
    for micros in [1, 500, 1000, 2000, 4000, 8000] {
        let mut wanted = Request::new(request(&[1, 9], 250));
        let timeout = format!("{micros}u").parse().expect("a header");
        wanted.metadata_mut().insert("grpc-timeout", timeout);
        let status = match InferenceClient::new(channel.clone()).generate(wanted).await {
            Ok(stream) => Stream(stream.into_inner()).collect().await.err(),
            Err(status) => Some(status),
        };
        // tonic's client may be the first to see the time pass, and says Cancelled.
        let refused = [Code::DeadlineExceeded, Code::ResourceExhausted, Code::Cancelled];
        assert!(status.as_ref().is_none_or(|s| refused.contains(&s.code())), "{micros} us: {status:?}");
    }
}

/// More requests at once than the queue takes: each is served or refused for that reason.
async fn fill_the_queue(channel: &Channel) -> usize {
    let ends = join_all((0..200).map(async |index| {
        let mut client = InferenceClient::new(channel.clone());
        let stream = client.generate(request(&[1, 3 + index], 20)).await?.into_inner();
        Stream(stream).collect().await.map(|_| ())
    }));
    let refused: Vec<_> = ends.await.into_iter().filter_map(Result::err).collect();
    assert!(refused.iter().all(|status| status.code() == Code::ResourceExhausted), "{refused:?}");
    refused.len()
}

fn with_float(field: usize, value: f32) -> GenerateRequest {
    let mut sampling = SamplingParams::default();
    match field {
        0 => sampling.temperature = Some(value),
        1 => sampling.top_p = Some(value),
        2 => sampling.min_p = Some(value),
        3 => sampling.repetition_penalty = Some(value),
        4 => sampling.presence_penalty = Some(value),
        5 => sampling.frequency_penalty = Some(value),
        _ => sampling.logit_bias = [(5, value)].into(),
    }
    GenerateRequest { sampling: Some(sampling), ..request(&[1], 4) }
}

/// Fields that no request may hold: each is an invalid argument.
async fn send_bad_fields(channel: &Channel) {
    let mut bad: Vec<GenerateRequest> = (0..7).map(|field| with_float(field, f32::NAN)).collect();
    bad.extend([request(&[1, 320], 4), request(&[u32::MAX], 4), request(&[], 4), request(&[1], 0)]);
    let stop = StoppingOptions { stop_token_ids: vec![320], max_tokens: Some(4), ..Default::default() };
    bad.push(GenerateRequest { stopping: Some(stop), ..request(&[1], 4) });
    bad.push(GenerateRequest { n: Some(0), ..request(&[1], 4) });
    for wanted in bad {
        let answer = InferenceClient::new(channel.clone()).generate(wanted.clone()).await;
        assert_eq!(answer.err().map(|s| s.code()), Some(Code::InvalidArgument), "{wanted:?}");
    }
}

/// Bytes that are not HTTP/2, and connections that say nothing.
fn send_garbage(address: SocketAddr) {
    let silent: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(address).expect("connected")).collect();
    for bytes in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0xff; 4096], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff"]
    {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        // The server may close before it has read all.
        let _ = stream.write_all(bytes);
        let _ = stream.read(&mut [0; 64]);
    }
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_neighbours_change_no_byte_and_keep_no_block() {
    covers!("LAW-1", "LAW-3", "LAW-4");
    let (_directory, path) = model_file();
    let mut process = Process::start(&path, &["--max-num-seqs", "8", "--max-queued", "64"]);
    process.ready();
    let channel = process.connect().await;
    let alone = collect(&channel, control()).await.outputs();
    assert!(alone[0].4 > 50, "the control stream is long: {} tokens", alone[0].4);
    // A connection of its own.
    let stop = Arc::new(AtomicBool::new(false));
    let controls = tokio::spawn(control_streams(process.connect().await, alone, Arc::clone(&stop)));

    vanish(&channel).await;
    pass_deadlines(&channel).await;
    send_bad_fields(&channel).await;
    let address = process.grpc;
    tokio::task::spawn_blocking(move || send_garbage(address)).await.expect("sent");
    assert!(fill_the_queue(&channel).await > 0, "the queue was meant to fill");
    stop.store(true, Ordering::Relaxed);
    assert!(controls.await.expect("every control run was right") >= 2);

    let metrics = process.idle_metrics().await;
    assert_eq!(metric(&metrics, "llorch_kv_blocks{state=\"used\"}"), 0.0);
    assert_eq!(metric(&metrics, "llorch_requests_running"), 0.0);
    assert_eq!(metric(&metrics, "llorch_requests_waiting"), 0.0);
    assert_eq!(metric(&metrics, "llorch_engine_restarts_total"), 0.0);
    let cancelled: f64 = ["queue", "prefill", "decode"]
        .iter()
        .map(|stage| metric(&metrics, &format!("llorch_requests_cancelled_total{{stage=\"{stage}\"}}")))
        .sum();
    assert!(cancelled >= 10.0, "{cancelled} cancelled");
    drop(channel);
    process.signal("TERM");
    let (status, log) = process.exit();
    assert_eq!(status.code(), Some(0), "{log}");
}
