//! The command line: one file a command.

pub mod bench_engine;
pub mod byte_size;
pub mod error;
pub mod generate;
pub mod inspect;
pub mod logging;
pub mod memory;
pub mod model_args;
pub mod output;
pub mod perplexity;
pub mod progress;
pub mod serve;
pub mod synth;
pub mod tokenize;

use clap::{Parser, Subcommand};
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
    /// Measure speed.
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Subcommand)]
enum BenchCommand {
    /// The engine alone: prefill and decode speed by batch size.
    Engine(bench_engine::BenchEngineArgs),
}

/// Parses the arguments, runs the command, and turns its error into one line on stderr and an exit code.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    logging::start();
    let result = match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Bench(BenchCommand::Engine(args)) => bench_engine::run(args),
    };
    error::exit(result)
}
