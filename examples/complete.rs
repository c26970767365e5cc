//! Streams a completion from a server at `LLORCH_TARGET` (default http://127.0.0.1:50051):
//! `cargo run --example complete -- "Once upon a time"`
#![allow(clippy::print_stdout)]

use llorch_cpud::server::proto::generate_request::Prompt;
use llorch_cpud::server::proto::generate_response::Event;
use llorch_cpud::server::proto::inference_client::InferenceClient;
use llorch_cpud::server::proto::{GenerateRequest, SamplingParams, StoppingOptions};
use std::io::Write;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let prompt = std::env::args().nth(1).unwrap_or_else(|| "Once upon a time".to_owned());
    let target = std::env::var("LLORCH_TARGET").unwrap_or_else(|_| "http://127.0.0.1:50051".to_owned());
    let request = GenerateRequest {
        prompt: Some(Prompt::Text(prompt)),
        sampling: Some(SamplingParams { temperature: Some(0.0), ..Default::default() }),
        stopping: Some(StoppingOptions { max_tokens: Some(64), ..Default::default() }),
        ..Default::default()
    };

    let mut client = InferenceClient::connect(target).await?;
    let mut events = client.generate(request).await?.into_inner();
    while let Some(response) = events.message().await? {
        match response.event {
            Some(Event::Delta(delta)) => {
                print!("{}", delta.text);
                std::io::stdout().flush()?;
            }
            Some(Event::Finished(finished)) => println!("\n[{:?}]", finished.reason()),
            _ => {}
        }
    }
    Ok(())
}
