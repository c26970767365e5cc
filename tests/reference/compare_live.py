#!/usr/bin/env python3
"""Traces of models that are not in the tree, beside NumPy's made on the spot.

    compare_live.py target/release/llorch-cpud MODEL.gguf... [--isa scalar,avx2,avx512] [--max-tokens 8] [--verbose]

For each model: `numpy_trace.py`'s trace in float64 of the weights as the file has them, then `trace` on each path with
an F32 cache, and `compare` with the tolerances of the weights' type. Ends with 1 where a comparison fails.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy_trace
from gguf_model import Model
from make_golden import prompt_of

PROMPT_TOKENS = 12


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--isa", type=lambda text: text.split(","), default=["auto"])
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--verbose", action="store_true", help="print every table")
    return parser.parse_args()


def run(command):
    return subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def compare(args, path, isa, prompt, context, folder):
    """Whether our trace passes; prints the last line, or all of it where it does not."""
    ours = folder / isa
    made = run([args.binary, "trace", "--model", path, "--prompt-tokens", ",".join(map(str, prompt)), "--max-tokens",
                args.max_tokens, "--isa", isa, "--kv-cache", "64MiB", "--max-model-len", context, "--out", ours])
    if made.returncode != 0:
        print(f"{path.name} on {isa}: trace ended with {made.returncode}\n{made.stdout}")
        return False
    done = run([args.binary, "compare", ours, folder / "reference"])
    lines = done.stdout.splitlines()
    print(f"{path.name} on {isa}: {lines[-1] if lines else 'no output'}")
    if args.verbose or done.returncode != 0:
        print(done.stdout)
    return done.returncode == 0


def main():
    args, passed = parse(), True
    for path in args.models:
        model = Model(str(path))
        prompt, context = prompt_of(path.stem, model.vocab)[:PROMPT_TOKENS], min(256, model.context)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            numpy_trace.trace(model, prompt, args.max_tokens, context).write(str(folder / "reference"))
            for isa in args.isa:
                passed &= compare(args, path, isa, prompt, context, folder)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
