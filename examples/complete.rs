//! Streams a completion from a server at `LLORCH_TARGET` (default http://127.0.0.1:50051):
//! `cargo run --example complete -- "Once upon a time"`

use llorch_cpud::server::proto::generate_request::Prompt;
use llorch_cpud::server::proto::generate_response::Event;
use llorch_cpud::server::proto::inference_client::InferenceClient;
use llorch_cpud::server::proto::{GenerateRequest, SamplingParams, StoppingOptions};
use std::error::Error;
use std::io::Write;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let prompt = std::env::args().nth(1).unwrap_or_else(|| "Once upon a time".to_owned());
    let target = std::env::var("LLORCH_TARGET").unwrap_or_else(|_| "http://127.0.0.1:50051".to_owned());
    complete(target, prompt, &mut std::io::stdout()).await
}

/// Asks `target` to continue `prompt` and writes the text to `out` as it comes, then the reason why it ended.
pub async fn complete(target: String, prompt: String, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let request = GenerateRequest {
        prompt: Some(Prompt::Text(prompt)),
        sampling: Some(SamplingParams { temperature: Some(0.0), ..Default::default() }),
        stopping: Some(StoppingOptions { max_tokens: Some(256), ..Default::default() }),
        ..Default::default()
    };
    let mut client = InferenceClient::connect(target).await?;
    let mut events = client.generate(request).await?.into_inner();
    while let Some(response) = events.message().await? {
        match response.event {
            Some(Event::Delta(delta)) => {
                out.write_all(delta.text.as_bytes())?;
                out.flush()?;
            }
            Some(Event::Finished(finished)) => writeln!(out, "\n[{}]", finished.reason().as_str_name())?,
            _ => {}
        }
    }
    Ok(())
}
