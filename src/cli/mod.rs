//! The command line: one file a command.

pub mod bench_engine;
pub mod bench_serve;
mod bench_session;
pub mod byte_size;
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
pub mod tokenize;
pub mod top;
pub mod whole_file;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
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
    let matches = with_environment(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    logging::start();
    let result = match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Quantize(args) => quantize::run(args),
        Command::Top(args) => top::run(args),
        Command::Bench(BenchCommand::Engine(args)) => bench_engine::run(args),
        Command::Bench(BenchCommand::Serve(args)) => bench_serve::run(args),
    };
    error::exit(result)
}

/// Lets every flag of a command and of those below it come from `LLORCH_<FLAG>`: `--max-tokens` from
/// `LLORCH_MAX_TOKENS`. The command line comes first.
fn with_environment(command: clap::Command) -> clap::Command {
    command.mut_subcommands(with_environment).mut_args(|flag| match flag.get_long() {
        Some(long) => {
            let name = format!("LLORCH_{}", long.to_uppercase().replace('-', "_"));
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
        with_environment(Cli::command()).debug_assert();
    }

    #[test]
    fn every_flag_of_every_command_has_its_variable() {
        let command = with_environment(Cli::command());
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
}
