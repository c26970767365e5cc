#!/usr/bin/env python3
"""Perplexity of the demo model in every weight type, ours beside llama-perplexity's on the same files.

    benches/peers/compare_perplexity.py --ours target/release/llorch-cpud --peer llama.cpp/build/bin

The embedded model (Q8_0) is made F16 again and that is quantised to each type by llama-quantize. The text is held-out
stories: the corpus generator under `models/` decides by a story's plot and fillers which are never trained on. Both
programs cut it into the same windows and score the second half of each. Fails where they differ by more than
--tolerance percent. What llama-quantize will not make is reported, and is no failure.

With --quantisers it compares our `quantize` with llama-quantize instead: each makes a file of each type that ours
knows, and llama-perplexity reads both. Fails where our file is worse by more than --tolerance percent or larger.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import model_files

ROOT = pathlib.Path(__file__).resolve().parents[2]
# llama-quantize has no file type of MXFP4 but for experts: name the tensors.
MXFP4 = ["--tensor-type", "attn_=mxfp4", "--tensor-type", "ffn_=mxfp4", "--token-embedding-type", "mxfp4"]
# Its file type, and more flags.
TYPES = {
    **{name: (name, []) for name in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_M", "Q4_K_M",
                                     "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS")},
    "MXFP4": ("Q8_0", MXFP4),
}
# Those that our `quantize` makes.
OURS = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q6_K"]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="the llorch-cpud binary, built with --release")
    parser.add_argument("--peer", required=True, type=pathlib.Path, help="folder of llama.cpp's binaries")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models/demo-llama-q8_0.gguf")
    parser.add_argument("--types", type=lambda text: text.upper().split(","))
    parser.add_argument("--quantisers", action="store_true", help="compare files made by ours and by llama-quantize")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--bytes", type=int, default=120_000, help="of the text")
    parser.add_argument("--stories", type=int, default=8000, help="to draw; some 3 %% of them are held out")
    parser.add_argument("--tolerance", type=float, default=0.5, help="percent")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--isa", default="auto", help="our instruction-set path")
    args = parser.parse_args()
    known = OURS if args.quantisers else list(TYPES)
    args.types = args.types or known
    unknown = set(args.types) - set(known)
    if unknown:
        parser.error(f"--types {','.join(unknown)}: known are {','.join(known)}")
    return args


def heldout_text(args, scratch):
    """Whole stories up to so many bytes."""
    generator = ROOT / "models/generate_corpus.py"
    subprocess.run([sys.executable, generator, "--out", scratch / "corpus", "--stories", str(args.stories)],
                   check=True, stdout=subprocess.DEVNULL)
    text = (scratch / "corpus/heldout.txt").read_bytes()
    text = text[:text.rindex(b"\n", 0, args.bytes) + 1]
    file = scratch / "heldout.txt"
    file.write_bytes(text)
    stories = text.count(b"\n")
    print(f"{stories} held-out stories, {len(text)} bytes; windows of {args.context} tokens")
    return file


def ours(args, model, text):
    command = [args.ours, "perplexity", "--json", "--model", model, "--file", text, "--context", str(args.context),
               "--threads", str(args.threads), "--isa", args.isa]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{args.ours} perplexity ended with {done.returncode} on {model.name}")
    return json.loads(done.stdout)["perplexity"]


def theirs(args, model, text):
    """None where it failed, after saying so. On a busy machine it sometimes ends before its last line is written."""
    command = [args.peer / "llama-perplexity", "-m", model, "-f", text, "-c", str(args.context),
               "-t", str(args.threads)]
    for _ in range(3):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        found = re.search(r"Final estimate: PPL = ([0-9.]+)", done.stdout)
        if done.returncode != 0 or found:
            break
    if done.returncode != 0 or not found:
        print(f"!!!! llama-perplexity ended with {done.returncode} on {model.name}:\n{done.stdout[-2000:]}")
        return None
    return float(found[1])


def quantise(args, base, name, scratch):
    """The file in this type, or None where llama-quantize will not make it."""
    file_type, flags = TYPES[name]
    out = scratch / f"{name}.gguf"
    try:
        model_files.convert(args.peer / "llama-quantize", base, out, file_type, *flags)
    except RuntimeError as error:
        print(f"!!!! {name}: {error}")
        return None
    return out


def compare_programs(args, base, text, scratch):
    """Ours and llama-perplexity on the same files. The types that differ too much, and how many were compared."""
    failures, made = [], 0
    print("\n| weights | llorch-cpud | llama-perplexity | difference | |\n|---|---|---|---|---|", flush=True)
    for name in args.types:
        model = quantise(args, base, name, scratch)
        if model is None:
            continue
        made += 1
        mine, other = ours(args, model, text), theirs(args, model, text)
        difference = None if other is None else 100 * (mine / other - 1)
        # Not a number is no match either.
        good = difference is not None and abs(difference) <= args.tolerance
        shown = "none | none" if difference is None else f"{other:.4f} | {difference:+.3f} %"
        print(f"| {name} | {mine:.4f} | {shown} | {'' if good else '**FAILED**'} |", flush=True)
        if not good:
            failures.append(name)
        model.unlink()
    return failures, made


def compare_quantisers(args, base, text, scratch):
    """llama-perplexity on our files and on llama-quantize's. As compare_programs."""
    failures, made = [], 0
    print("\n| type | our bytes | PPL | llama-quantize's bytes | PPL | difference | |\n|---|---|---|---|---|---|---|")
    for name in args.types:
        other = quantise(args, base, name, scratch)
        if other is None:
            continue
        made += 1
        mine = scratch / f"ours-{name}.gguf"
        subprocess.run([args.ours, "quantize", base, mine, name.lower()], check=True)
        sizes, values = [], []
        for model in (mine, other):
            sizes.append(model.stat().st_size)
            values.append(theirs(args, model, text))
            model.unlink()
        worse = None if None in values else 100 * (values[0] / values[1] - 1)
        # The header may differ by a page or so.
        good = worse is not None and worse <= args.tolerance and sizes[0] <= sizes[1] + 4096
        shown = "none" if worse is None else f"{worse:+.3f} %"
        row = [name, sizes[0], values[0], sizes[1], values[1], shown, "" if good else "**FAILED**"]
        print("|", " | ".join(map(str, row)), "|", flush=True)
        if not good:
            failures.append(name)
    return failures, made


def main():
    args = parse()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        text = heldout_text(args, scratch)
        base = scratch / "base.gguf"
        model_files.convert(args.peer / "llama-quantize", args.model, base, "F16", "--allow-requantize")
        compare = compare_quantisers if args.quantisers else compare_programs
        failures, made = compare(args, base, text, scratch)
    if failures or not made:
        sys.exit(f"differ by more than {args.tolerance} %: {', '.join(failures) or 'nothing was made'}")


if __name__ == "__main__":
    main()
