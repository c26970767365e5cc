//! `tokenize`: text on stdin, ids on stdout.

use super::error::CliError;
use super::output;
use crate::text::Tokenizer;
use crate::types::TokenId;
use std::io::Read;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct TokenizeArgs {
    /// GGUF file whose tokenizer is used; a file without weights will do [default: the embedded demo model].
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Add the tokens that the file puts around a prompt (BOS, EOS).
    #[arg(long)]
    add_bos: bool,
    /// Take control tokens spelt in the text, such as `<s>`, for those tokens.
    #[arg(long)]
    parse_special: bool,
}

/// Reads stdin to its end and prints the ids of that text on one line, separated by spaces.
pub fn run(args: TokenizeArgs) -> Result<(), CliError> {
    let (file, source) = output::open_model(args.model.as_deref())?;
    let tokenizer =
        Tokenizer::from_metadata(file.metadata()).map_err(|error| CliError::BadData(format!("{source}: {error}")))?;
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).map_err(|error| CliError::Io(format!("stdin: {error}")))?;
    let text = output::text_of(bytes).map_err(|error| CliError::BadData(format!("stdin: {error}")))?;
    let ids = tokenizer
        .encode(&text, args.add_bos, args.parse_special)
        .map_err(|error| CliError::BadData(format!("stdin: {error}")))?;
    let line = ids.iter().map(TokenId::to_string).collect::<Vec<_>>().join(" ");
    output::print(&format!("{line}\n"))
}
