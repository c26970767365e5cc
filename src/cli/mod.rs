//! The command line: one file a command.

pub mod bench_engine;
pub mod bench_serve;
mod bench_session;
pub mod byte_size;
mod cgroup_memory;
pub mod compare;
pub mod demo_model;
pub mod duration;
pub mod error;
pub mod generate;
pub mod inspect;
pub mod logging;
pub mod memory;
pub mod memory_need;
pub mod model_args;
pub mod output;
pub mod perplexity;
pub mod progress;
pub mod quantize;
pub mod serve;
pub mod synth;
mod tenant_weight;
pub mod tokenize;
pub mod top;
pub mod trace;
pub mod whole_file;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use error::CliError;
use std::process::ExitCode;

/// Batched, deterministic CPU inference server for language models.
#[derive(Parser)]
#[command(name = "llorch-cpud", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve completions over gRPC.
    Serve(serve::ServeArgs),
    /// Complete one prompt and print the text.
    Generate(generate::GenerateArgs),
    /// Describe a model file: architecture, sizes, tensor types, tokenizer, memory needed.
    Inspect(inspect::InspectArgs),
    /// Turn text on stdin into token ids on stdout.
    Tokenize(tokenize::TokenizeArgs),
    /// Write a model file with seeded random weights.
    Synth(synth::SynthArgs),
    /// Measure how well a model predicts a text.
    Perplexity(perplexity::PerplexityArgs),
    /// Write the values of a run at the twelve checkpoints as .npy files.
    Trace(trace::TraceArgs),
    /// Compare two traces, checkpoint by checkpoint; exit code 1 where a tolerance is passed.
    Compare(compare::CompareArgs),
    /// Write a model file in smaller types.
    Quantize(quantize::QuantizeArgs),
    /// Watch a running server on the terminal.
    Top(top::TopArgs),
    /// Measure speed.
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Subcommand)]
enum BenchCommand {
    /// The engine alone: prefill and decode speed by batch size.
    Engine(bench_engine::BenchEngineArgs),
    /// A running server under load: latencies, throughput, errors.
    Serve(bench_serve::BenchServeArgs),
}

/// Parses the arguments, runs the command, and turns its error into one line on stderr and an exit code.
pub fn run() -> ExitCode {
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(refused) => return refuse(&refused),
    };
    logging::start();
    let result = match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Trace(args) => trace::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Quantize(args) => quantize::run(args),
        Command::Top(args) => top::run(args),
        Command::Bench(BenchCommand::Engine(args)) => bench_engine::run(args),
        Command::Bench(BenchCommand::Serve(args)) => bench_serve::run(args),
    };
    error::exit(result)
}

/// What clap has to say: help and versions as they are, an error as one line like every other.
fn refuse(refused: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    if !refused.use_stderr() || refused.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        refused.exit();
    }
    error::exit(Err(CliError::Usage(one_line(&refused.to_string()))))
}

/// The error and the tips of clap's text, which has them in paragraphs among others.
fn one_line(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(str::trim);
    let told = paragraphs.enumerate().filter(|(i, paragraph)| *i == 0 || paragraph.starts_with("tip:"));
    let lines = |paragraph: &str| paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let line = told.map(|(_, paragraph)| lines(paragraph)).collect::<Vec<_>>().join("; ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

/// The whole definition.
fn command() -> clap::Command {
    with_environment(trace::with_defaults(Cli::command()))
}

/// Lets every flag of a command and of those below it come from `LLORCH_<FLAG>`: `--max-tokens` from
/// `LLORCH_MAX_TOKENS`. The command line comes first. A switch takes 1, true, yes or on, and their contraries.
fn with_environment(command: clap::Command) -> clap::Command {
    command.mut_subcommands(with_environment).mut_args(|flag| match flag.get_long() {
        Some(long) => {
            let name = format!("LLORCH_{}", long.to_uppercase().replace('-', "_"));
            let is_switch = matches!(flag.get_action(), ArgAction::SetTrue);
            let flag = if is_switch { flag.value_parser(BoolishValueParser::new()) } else { flag };
            flag.env(name)
        }
        None => flag,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_of_every_command_has_its_variable() {
        let command = command();
        let generate = command.find_subcommand("generate").expect("a command");
        let variable = |long: &str| {
            let flag = generate.get_arguments().find(|a| a.get_long() == Some(long)).expect("a flag");
            flag.get_env().and_then(|name| name.to_str()).map(str::to_owned)
        };
        assert_eq!(variable("max-tokens").as_deref(), Some("LLORCH_MAX_TOKENS"));
        assert_eq!(variable("model").as_deref(), Some("LLORCH_MODEL"));
        let engine = command.find_subcommand("bench").and_then(|bench| bench.find_subcommand("engine"));
        let flags: Vec<_> = engine.expect("a command").get_arguments().filter(|a| a.get_long().is_some()).collect();
        assert!(flags.len() > 5 && flags.iter().all(|a| a.get_env().is_some()));
    }

    #[test]
    fn usage_errors_are_one_line_that_names_the_flag() {
        for (arguments, parts) in [
            (&["serve", "--threads", "many"][..], &["'many'", "--threads"][..]),
            (&["generate", "--prompt", "x", "--tempratur", "1"], &["'--tempratur' found; tip:", "'--temperature'"]),
            (&["quantize", "a", "b", "FOO"], &["'FOO'", "Q4_K_M"]),
            (&["generate", "--prompt", "x", "--prompt-file", "y"], &["--prompt", "--prompt-file"]),
            (&["bench", "serve"], &["not provided", "--"]),
            (&["nothing"], &["'nothing'"]),
        ] {
            let error = command().try_get_matches_from(["llorch-cpud"].iter().chain(arguments)).expect_err("refused");
            let line = one_line(&error.to_string());
            assert!(parts.iter().all(|part| line.contains(part)), "{line}");
            assert!(!line.contains('\n') && !line.contains("Usage") && !line.starts_with("error"), "{line}");
        }
    }

    /// The default of a flag of `serve`.
    fn serve_default(flag: &str) -> String {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").expect("a command");
        let argument = serve.get_arguments().find(|a| a.get_long() == flag.strip_prefix("--"));
        let values = argument.unwrap_or_else(|| panic!("no flag {flag}")).get_default_values();
        values[0].to_str().expect("text").to_owned()
    }

    #[test]
    fn api_47_limits_are_those_of_the_table() {
        use crate::engine::handle::QueueLimits;
        use crate::server::limits::*;
        covers!("API-47");
        const OF_THE_ENGINE: [&str; 5] =
            ["max_num_seqs", "max_num_batched_tokens", "max_queued", "max_queued_tokens", "max_claimed_kv"];
        let limits = ServerLimits::default();
        let given = |flag| serve_default(flag).parse().expect("a number");
        let queue = QueueLimits::new(given("--max-queued"), u64::from(given("--max-queued-tokens")));
        for row in crate::spec::table("API-47").rows() {
            let (limit, value) = (row.text("limit"), row.text("value"));
            let flag = row.text("flag");
            if !flag.is_empty() && !limit.ends_with("_per_tenant") {
                assert_eq!(serve_default(flag), value, "{flag}");
            }
            let bytes = || value.parse::<byte_size::ByteSize>().expect("a number or a size").0;
            let time = || duration::parse(value).expect("a time");
            match limit {
                "message_timeout" => assert_eq!(limits.message_timeout, time()),
                "drain_timeout" => assert_eq!(limits.drain_timeout, time()),
                "answer_timeout" => assert_eq!(limits.answer_timeout, time()),
                "stall_timeout" => assert_eq!(limits.stall_timeout, time()),
                "preface_timeout" => assert_eq!(limits.preface_timeout, time()),
                "keepalive_interval" => assert_eq!(limits.keepalive_interval, time()),
                "keepalive_timeout" => assert_eq!(limits.keepalive_timeout, time()),
                "max_queued_per_tenant" => assert_eq!(u64::from(queue.max_queued_per_tenant), bytes()),
                "max_queued_tokens_per_tenant" => assert_eq!(queue.max_queued_tokens_per_tenant, bytes()),
                _ if OF_THE_ENGINE.contains(&limit) => assert!(!flag.is_empty(), "{limit} is a flag's"),
                _ => assert_eq!(number(&limits, limit), bytes(), "{limit}"),
            }
        }
        fn number(limits: &ServerLimits, limit: &str) -> u64 {
            let number = match limit {
                "max_message_bytes" => limits.max_message_bytes,
                "max_receiving_bytes" => limits.max_receiving_bytes,
                "max_connections" => limits.max_connections as usize,
                "max_concurrent_streams" => limits.max_concurrent_streams as usize,
                "max_header_list_bytes" => limits.max_header_list_bytes as usize,
                "max_pending_resets" => limits.max_pending_resets,
                "max_unread_bytes" => limits.max_unread_bytes,
                "max_unread_bytes_logprobs" => limits.max_unread_bytes_logprobs,
                "max_send_buffer_bytes" => limits.max_send_buffer_bytes,
                "inline_encode_bytes" => limits.inline_encode_bytes,
                "max_encoders" => limits.max_encoders,
                "max_waiting_encodes" => limits.max_waiting_encodes,
                "max_response_bytes" => limits.max_response_bytes,
                "max_answer_bytes" => limits.max_answer_bytes,
                "reflection_message" => MAX_REFLECTION_MESSAGE,
                "request_id" => MAX_REQUEST_ID,
                "n" => MAX_N as usize,
                "top_logprobs" => MAX_TOP_LOGPROBS as usize,
                "stop" => MAX_STOPS,
                "stop_bytes" => MAX_STOPS_BYTES,
                "stop_token_ids" => MAX_STOP_TOKEN_IDS,
                "logit_bias" => MAX_LOGIT_BIAS,
                "tenant" => MAX_TENANT,
                other => panic!("no limit {other}"),
            };
            number as u64
        }
    }
}
