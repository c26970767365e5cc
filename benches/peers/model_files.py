"""The model files of the comparison: TinyLlama-1.1B's shape with random weights, in the types that are compared."""

import os
import pathlib
import subprocess
import sys

SYNTHETIC = ["f16", "bf16"]
# Made from f16 by llama-quantize.
QUANTISED = ["q8_0", "q4_k_m", "q4_0", "q6_k"]
# Of a name's parts; `bf16` before `f16`, which is part of it.
KNOWN = ["bf16", "f16", "f32", "q8_0", "q4_k_m", "q5_k_m", "q3_k_m", "q2_k", "q6_k", "q4_0", "q4_1", "q5_0", "q5_1",
         "iq4_nl", "iq4_xs", "mxfp4"]
# A file for contexts beyond the shape's 2048.
LONG_CONTEXT = 8192


def make(ours, quantize, folder, vocab):
    """Writes the files that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for weights in SYNTHETIC:
        synth(ours, folder / f"1b-{weights}.gguf", weights, vocab)
    for weights in QUANTISED:
        print(f"making {weights}", flush=True)
        convert(quantize, folder / "1b-f16.gguf", folder / f"1b-{weights}.gguf", weights)
    long = folder / "1b-q8_0-8k.gguf"
    if not long.exists():
        source = folder / "1b-f16-8k.gguf"
        synth(ours, source, "f16", vocab, LONG_CONTEXT)
        convert(quantize, source, long, "q8_0")
        source.unlink()


def synth(ours, out, weights, vocab, context=None):
    if out.exists():
        return
    print(f"writing {out}", flush=True)
    more = ["--context", str(context)] if context else []
    more += ["--vocab", vocab] if vocab else []
    subprocess.run([ours, "synth", "--shape", "1b", "--type", weights, *more, out], check=True)


def convert(quantize, source, out, weights, *flags):
    """Runs llama-quantize. A file called `out` is complete. Says what the program said when it fails."""
    if out.exists():
        return
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    done = subprocess.run([quantize, *flags, source, partial, weights.upper()], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode != 0:
        partial.unlink(missing_ok=True)
        raise RuntimeError(f"llama-quantize {weights}: status {done.returncode}\n{done.stdout[-2000:]}")
    partial.rename(out)


def find(paths, types):
    """The files named, and of each folder one for each of `types`."""
    files = []
    for path in paths:
        files += [path / f"1b-{weights}.gguf" for weights in types] if path.is_dir() else [path]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        sys.exit(f"not there: {', '.join(missing)} (--make-models DIR writes them)")
    return files


def weights_of(model):
    """The type of weights in a file's name, or the name."""
    stem = pathlib.Path(model).stem.lower()
    return next((weights for weights in KNOWN if weights in stem), stem)
