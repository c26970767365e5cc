//! `quantize`: a model file in smaller types.

use super::byte_size::ByteSize;
use super::error::CliError;
use super::output::model_file_error;
use super::progress::Bar;
use super::whole_file::write_whole;
use crate::gguf::ModelFile;
use crate::gguf::quantize::{self, QuantizeError, Step};
use crate::gguf::recipe::Recipe;
use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the names of types do not say.
const RULES: &str = "\
Norms, biases, position embeddings and the routers of experts stay as they are. The output matrix (or the embedding
where it serves as one) is Q6_K in Q4_0 and Q4_K_M. Q4_K_M is Q4_K otherwise, and Q6_K for the values and the down
projection of the first and last eighth of the layers and of every third between. Rows that are no multiple of 256
cannot be Q4_K or Q6_K: they become Q8_0, or F16 where they are none of 32.";

#[derive(clap::Args)]
#[command(after_help = RULES)]
pub struct QuantizeArgs {
    /// Model file (GGUF), or the first file of a split model.
    #[arg(value_name = "IN.gguf")]
    input: PathBuf,
    /// The file to write; one that exists is replaced when the new one is complete.
    #[arg(value_name = "OUT.gguf")]
    out: PathBuf,
    /// F16, BF16, Q8_0, Q4_0, Q4_K_M or Q6_K.
    #[arg(value_name = "TYPE")]
    recipe: Recipe,
}

/// Writes the file.
pub fn run(args: QuantizeArgs) -> Result<(), CliError> {
    let bad_input = |e| model_file_error(&args.input, &e);
    let file = ModelFile::open(&args.input).map_err(bad_input)?;
    if file.paths().iter().any(|path| are_one_file(path, &args.out)) {
        return Err(CliError::Usage(format!("{}: is the file that is read", args.out.display())));
    }
    let steps = quantize::plan(&file, args.recipe).map_err(bad_input)?;
    tell_notes(&steps);
    write_whole(&args.out, |out| write(&args, &file, &steps, out))?;
    let written = fs::metadata(&args.out).map_or(0, |stat| stat.len());
    let (before, after) = (ByteSize(file.file_bytes()), ByteSize(written));
    tracing::info!("{}: {before} became {after} of {}", args.out.display(), args.recipe);
    Ok(())
}

/// Whether both paths lead to the same file.
fn are_one_file(a: &Path, b: &Path) -> bool {
    let identity = |path| fs::metadata(path).ok().map(|stat| (stat.dev(), stat.ino()));
    identity(a).is_some_and(|id| identity(b) == Some(id))
}

fn tell_notes(steps: &[Step<'_>]) {
    let requantised = steps.iter().filter(|step| step.requantises()).count();
    if requantised > 0 {
        tracing::warn!(tensors = requantised, "requantizing: what their present type has lost is not regained");
    }
    for step in steps {
        if let Some(wanted) = step.instead_of {
            let (name, row) = (&step.tensor.name, step.tensor.dims.first().copied().unwrap_or(0));
            tracing::warn!("tensor {name}: rows of {row} cannot be {wanted}");
        }
    }
}

fn write(args: &QuantizeArgs, file: &ModelFile, steps: &[Step<'_>], out: File) -> Result<(), CliError> {
    let mut bar = Bar::new(steps.iter().map(|step| step.tensor.num_bytes).sum(), "quantizing");
    let out = BufWriter::with_capacity(1 << 20, out);
    let written = quantize::write(file, args.recipe, steps, out, &mut |done| bar.set(done));
    bar.finish();
    match written {
        Ok(_) => Ok(()),
        Err(QuantizeError::Gguf(error)) => Err(model_file_error(&args.input, &error)),
        Err(error @ QuantizeError::Encode { .. }) => {
            Err(CliError::BadData(format!("{}: {error}", args.input.display())))
        }
        Err(QuantizeError::Write(error)) => Err(CliError::Io(format!("writing {}: {error}", args.out.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::test_model::TestModel;
    use tempfile::TempDir;

    /// A folder with a model in it.
    fn folder(model: &TestModel) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("in.gguf");
        fs::write(&path, model.build()).expect("written");
        (dir, path)
    }

    fn args(input: &Path, out: &Path, recipe: Recipe) -> QuantizeArgs {
        QuantizeArgs { input: input.into(), out: out.into(), recipe }
    }

    fn num_files(dir: &TempDir) -> usize {
        fs::read_dir(dir.path()).expect("listed").count()
    }

    #[test]
    fn the_file_is_complete_and_nothing_else_is_left() {
        covers!("QNT-11");
        let (dir, input) = folder(&TestModel::default());
        let out = dir.path().join("out.gguf");
        fs::write(&out, "an older file").expect("written");
        run(args(&input, &out, Recipe::Q8_0)).expect("quantised");
        let file = ModelFile::open(&out).expect("valid");
        assert_eq!(file.metadata().require_u32("general.file_type").expect("there"), 7);
        assert_eq!(num_files(&dir), 2);
    }

    #[test]
    fn a_failure_leaves_nothing() {
        covers!("QNT-11");
        let mut nan = vec![0; 64 * 64 * 4];
        nan[64 * 4..64 * 4 + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        let name = "blk.1.attn_q.weight";
        let (dir, input) = folder(&TestModel::default().with_tensor_data(name, &nan));
        let error = run(args(&input, &dir.path().join("out.gguf"), Recipe::Q4_0)).expect_err("refused");
        assert!(matches!(error, CliError::BadData(_)));
        assert!(error.to_string().ends_with("tensor blk.1.attn_q.weight, row 1: element 0 is NaN"), "{error}");
        assert_eq!(num_files(&dir), 1);
    }

    #[test]
    fn what_is_read_is_not_written_over() {
        covers!("QNT-12");
        let (dir, input) = folder(&TestModel::default());
        let (link, hard) = (dir.path().join("link.gguf"), dir.path().join("hard.gguf"));
        std::os::unix::fs::symlink(&input, &link).expect("linked");
        fs::hard_link(&input, &hard).expect("linked");
        let before = fs::read(&input).expect("read");
        for out in [&input, &link, &hard] {
            let error = run(args(&input, out, Recipe::F16)).expect_err("refused");
            assert!(matches!(error, CliError::Usage(_)), "{error}");
        }
        assert_eq!(fs::read(&input).expect("read"), before);
        assert_eq!(num_files(&dir), 3);
    }

    #[test]
    fn paths_that_do_not_open_are_told() {
        let (dir, input) = folder(&TestModel::default());
        let missing = dir.path().join("none.gguf");
        let error = run(args(&missing, &dir.path().join("out.gguf"), Recipe::F16)).expect_err("refused");
        assert!(matches!(error, CliError::CannotOpen(_)), "{error}");
        let error = run(args(&input, &dir.path().join("none/out.gguf"), Recipe::F16)).expect_err("refused");
        assert!(matches!(error, CliError::CannotOpen(_)), "{error}");
        let error = run(args(&input, dir.path(), Recipe::F16)).expect_err("refused");
        assert!(matches!(error, CliError::CannotOpen(_)), "{error}");
    }
}
