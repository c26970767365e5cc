//! One bad client, drawn from a number: what it asks for, and how it goes.

use super::raw;
use crate::support::client::{Output, Stream, endpoint, named};
use crate::support::process::POISON;
use crate::support::random::Random;
use futures_util::FutureExt;
use llorch_cpud::server::proto::control_client::ControlClient;
use llorch_cpud::server::proto::inference_client::InferenceClient;
use llorch_cpud::server::proto::{AbortRequest, GenerateRequest, KvOptions, ResponseOptions, SamplingParams};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex;
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

/// Connections that are half open are held until so many more have come.
const HELD: usize = 64;

/// What a client knows of how its request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It left, or its connection did: the server alone knows.
    Nothing,
    /// All of it.
    Well,
    /// An error after it was accepted.
    Failed,
    /// That its deadline passed. The engine may have been done a moment before.
    Late,
    /// An error before.
    Refused,
}

/// Where clients come from.
pub struct Clients {
    pub seed: u64,
    pub address: SocketAddr,
    /// Connections that many clients share.
    pub channels: Vec<Channel>,
    /// A connection for those who end the requests of others.
    pub admin: Channel,
    /// The outputs of [`sample`] alone.
    pub samples: Vec<Vec<Output>>,
    pub held: Mutex<VecDeque<TcpStream>>,
}

pub const NUM_SAMPLES: u32 = 8;

/// Request number `which` of those whose outputs are known. The token that has no finite logits is banned.
pub fn sample(which: u32, id: &str) -> GenerateRequest {
    let length = [3, 5, 7, 9, 11, 30, 60, 200][which as usize];
    let prompt: Vec<u32> = (0..length).map(|i| 50 + (which * 31 + i * 7) % 200).collect();
    let sampling = SamplingParams {
        temperature: Some([0.0, 0.8, 1.2][which as usize % 3]),
        seed: Some(u64::from(which)),
        logit_bias: [(POISON, f32::NEG_INFINITY)].into(),
        ..Default::default()
    };
    GenerateRequest { sampling: Some(sampling), ..named(id, &prompt, 8 + which * 5) }
}

impl Clients {
    /// Client number `number` comes and goes. The requests it made, with what it saw of their ends.
    pub async fn kill(&self, number: u64) -> Vec<(String, Seen)> {
        let mut random = Random::new(self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let id = format!("k{number}");
        let wanted = self.request(&mut random, &id);
        let seen = match random.range(0, 99) {
            0..40 => self.leave(wanted, &mut random).await,
            40..48 => self.hang_up(wanted, &mut random).await,
            48..56 => self.abort(wanted, &mut random).await,
            56..64 => self.hurry(wanted, &mut random).await,
            64..68 => self.poison(wanted, &mut random).await,
            68..74 => self.stay(&mut random, &id).await,
            74..78 => self.bad_fields(wanted, &mut random).await,
            78..87 => self.reset(wanted, &mut random).await,
            87..92 => return self.disconnect(&id, &mut random).await,
            92..96 => self.hold(wanted, &mut random).await,
            _ => self.breach(&mut random).await,
        };
        vec![(id, seen)]
    }

    fn request(&self, random: &mut Random, id: &str) -> GenerateRequest {
        let mut wanted = sample(random.range(0, NUM_SAMPLES - 1), id);
        if random.one_in(12) {
            wanted.n = Some(random.range(2, 5));
        }
        if random.one_in(4) {
            wanted.response = Some(ResponseOptions { top_logprobs: Some(3), ..Default::default() });
        }
        if random.one_in(2) {
            wanted.kv = Some(KvOptions { bypass_prefix_cache: true, ..Default::default() });
        }
        wanted.tenant = random.pick(&["", "a", "b", "c"]).into();
        wanted.priority = Some(random.range(0, 4) as i32 - 2);
        wanted
    }

    fn channel(&self, random: &mut Random) -> Channel {
        self.channels[random.range(0, self.channels.len() as u32 - 1) as usize].clone()
    }

    async fn start(&self, channel: Channel, wanted: impl tonic::IntoRequest<GenerateRequest>) -> Result<Stream, Seen> {
        match InferenceClient::new(channel).generate(wanted).await {
            Ok(stream) => Ok(Stream(stream.into_inner())),
            Err(status) => Err(seen_in(&status, Seen::Refused)),
        }
    }

    /// Reads some events and drops the stream.
    async fn leave(&self, wanted: GenerateRequest, random: &mut Random) -> Seen {
        match self.start(self.channel(random), wanted).await {
            Ok(stream) => read(stream, random.range(0, 12)).await.1,
            Err(seen) => seen,
        }
    }

    /// Drops the call before it was answered.
    async fn hang_up(&self, wanted: GenerateRequest, random: &mut Random) -> Seen {
        let (mut client, polls) = (InferenceClient::new(self.channel(random)), random.range(0, 6));
        let call = async {
            if random.one_in(2) {
                client.generate(wanted).await.map(|_| ())
            } else {
                client.complete(wanted).await.map(|_| ())
            }
        };
        let mut call = std::pin::pin!(call);
        for _ in 0..polls {
            if call.as_mut().now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        Seen::Nothing
    }

    /// Somebody else ends the request.
    async fn abort(&self, wanted: GenerateRequest, random: &mut Random) -> Seen {
        let request_id = wanted.request_id.clone();
        let (stream, seen) = match self.start(self.channel(random), wanted).await {
            Ok(stream) => read(stream, random.range(1, 6)).await,
            Err(seen) => return seen,
        };
        let Some(stream) = stream else { return seen };
        let answer = ControlClient::new(self.admin.clone()).abort(AbortRequest { request_id }).await;
        assert!(answer.as_ref().err().is_none_or(|s| s.code() == Code::NotFound), "{answer:?}");
        read(stream, u32::MAX).await.1
    }

    /// Has less time than the request takes, or little more. Its prompt takes several steps.
    async fn hurry(&self, mut wanted: GenerateRequest, random: &mut Random) -> Seen {
        wanted.prompt = sample(NUM_SAMPLES - 1, "").prompt;
        wanted.kv = Some(KvOptions { bypass_prefix_cache: true, ..Default::default() });
        let mut wanted = Request::new(wanted);
        let timeout = format!("{}u", random.range(50, 30_000)).parse().expect("a header");
        wanted.metadata_mut().insert("grpc-timeout", timeout);
        match self.start(self.channel(random), wanted).await {
            Ok(stream) => read(stream, u32::MAX).await.1,
            Err(seen) => seen,
        }
    }

    /// Asks for what has no finite logits.
    async fn poison(&self, mut wanted: GenerateRequest, random: &mut Random) -> Seen {
        let ids = [[1].repeat(random.range(1, 12) as usize), vec![POISON]].concat();
        wanted.prompt = named("", &ids, 1).prompt;
        match self.start(self.channel(random), wanted).await {
            Ok(stream) => {
                let (_, seen) = read(stream, u32::MAX).await;
                assert_ne!(seen, Seen::Well, "NaN was sampled");
                seen
            }
            Err(seen) => seen,
        }
    }

    /// Reads to the end, which is known.
    async fn stay(&self, random: &mut Random, id: &str) -> Seen {
        let which = random.range(0, NUM_SAMPLES - 1);
        match self.start(self.channel(random), sample(which, id)).await {
            Ok(stream) => match stream.collect().await {
                Ok(completion) => {
                    assert_eq!(completion.outputs(), self.samples[which as usize], "{id}: sample {which}");
                    Seen::Well
                }
                Err(status) => seen_in(&status, Seen::Failed),
            },
            Err(seen) => seen,
        }
    }

    async fn bad_fields(&self, mut wanted: GenerateRequest, random: &mut Random) -> Seen {
        match random.range(0, 3) {
            0 => wanted.n = Some(0),
            1 => wanted.sampling.get_or_insert_default().temperature = Some(f32::NAN),
            2 => wanted.prompt = named("", &[u32::MAX], 1).prompt,
            _ => wanted.stopping.get_or_insert_default().max_tokens = Some(0),
        }
        match self.start(self.channel(random), wanted).await {
            Ok(_) => panic!("a bad field was accepted"),
            Err(seen) => seen,
        }
    }

    /// A connection of its own that is reset while the answer comes.
    async fn reset(&self, wanted: GenerateRequest, random: &mut Random) -> Seen {
        let Ok(mut stream) = raw::connect(self.address).await else { return Seen::Nothing };
        let call = [raw::greeting(65_535), raw::call(1, &raw::message(&wanted))].concat();
        raw::send(&mut stream, &call).await;
        // The server's own settings, its headers, then events.
        raw::read_frames(&mut stream, random.range(0, 12)).await;
        Seen::Nothing
    }

    /// A connection of its own that goes with all its streams.
    async fn disconnect(&self, id: &str, random: &mut Random) -> Vec<(String, Seen)> {
        let Ok(channel) = endpoint(self.address).connect().await else { return Vec::new() };
        let mut streams = Vec::new();
        let mut requests = Vec::new();
        for part in 0..random.range(1, 4) {
            let id = format!("{id}-{part}");
            let wanted = self.request(random, &id);
            let seen = match self.start(channel.clone(), wanted).await {
                Ok(stream) => {
                    let (stream, seen) = read(stream, random.range(0, 4)).await;
                    streams.extend(stream);
                    seen
                }
                Err(seen) => seen,
            };
            requests.push((id, seen));
        }
        requests
    }

    /// A connection that says something and then nothing more; some ask for an answer that they never read.
    async fn hold(&self, wanted: GenerateRequest, random: &mut Random) -> Seen {
        let Ok(mut stream) = raw::connect(self.address).await else { return Seen::Nothing };
        let body = raw::message(&wanted);
        let bytes = match random.range(0, 5) {
            0 => Vec::new(),
            1 => raw::PREFACE[..random.range(1, 23) as usize].to_vec(),
            2 => raw::greeting(65_535),
            3 => [raw::greeting(65_535), raw::headers(1)].concat(),
            4 => [raw::greeting(65_535), raw::half_call(1, &body, random.range(0, 20) as usize)].concat(),
            _ => [raw::greeting(0), raw::call(1, &body)].concat(),
        };
        raw::send(&mut stream, &bytes).await;
        let mut held = self.held.lock().expect("not poisoned");
        held.push_back(stream);
        if held.len() > HELD {
            held.pop_front();
        }
        Seen::Nothing
    }

    /// Breaks the protocol, and waits until the server has done with it.
    async fn breach(&self, random: &mut Random) -> Seen {
        let Ok(mut stream) = raw::connect(self.address).await else { return Seen::Nothing };
        if random.one_in(2) {
            let body = raw::bad_body(random.range(0, raw::NUM_BAD_BODIES - 1));
            let calls = [raw::greeting(65_535), raw::call(1, &body), raw::call(3, &body)].concat();
            raw::send(&mut stream, &calls).await;
        } else {
            raw::send(&mut stream, &raw::breach(random.range(0, raw::NUM_BREACHES - 1))).await;
        }
        raw::read_frames(&mut stream, u32::MAX).await;
        Seen::Nothing
    }
}

/// Reads up to `events` events. The stream, where it goes on, and what was seen of its end.
async fn read(mut stream: Stream, events: u32) -> (Option<Stream>, Seen) {
    for _ in 0..events {
        match stream.next().await {
            Ok(Some(_)) => {}
            Ok(None) => return (None, Seen::Well),
            Err(status) => return (None, seen_in(&status, Seen::Failed)),
        }
    }
    (Some(stream), Seen::Nothing)
}

/// The server's own errors are `seen`; others are of this side or of the connection.
fn seen_in(status: &Status, seen: Seen) -> Seen {
    let details = status.get_error_details();
    let Some(info) = details.error_info() else { return Seen::Nothing };
    let before = ["QUEUE_FULL", "QUOTA", "DEADLINE_UNMEETABLE", "FIELD_INVALID", "IN_TRANSFER", "IN_QUEUE"];
    let after = ["IN_QUEUE", "IN_PREFILL", "IN_DECODE", "ADMIN", "NON_FINITE_LOGITS"];
    let expected: &[&str] = if seen == Seen::Refused { &before } else { &after };
    assert!(expected.contains(&info.reason.as_str()), "{seen:?}: {status:?}");
    if seen == Seen::Failed && status.code() == Code::DeadlineExceeded { Seen::Late } else { seen }
}
