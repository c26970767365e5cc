#!/usr/bin/env python3
"""Prefill and decode speed beside llama.cpp's: `bench engine` and llama-batched-bench by turns, on the same files.

    benches/peers/compare_engine.py --ours target/release/llorch-cpud --peer llama.cpp/build/bin --make-models DIR
    benches/peers/compare_engine.py --ours target/release/llorch-cpud --peer llama.cpp/build/bin --models DIR

First llama.cpp runs once with each of --variants, and the best one of each column is kept: its best flags. (In that
run all sequences share one prompt, which saves most of its time; decode reads a copy of K and V for each sequence.)
Then come the rounds: ours and llama.cpp, never both at once, the order reversed from round to round. A ratio is of
one round; the table shows the median of the rounds and their spread. `--wrap` names a command to put before each
measured one, such as `--wrap "taskset -c 2,3"`.

What each side counts is in the comment that opens `src/cli/bench_engine.rs`. Build the peer with `build_llama_cpp.sh`.
Against its AVX2 build: `--peer llama.cpp/build-avx2/bin --isa avx2 --target 1`.
"""

import argparse
import collections
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

import model_files

# At least so many times llama.cpp's speed: prefill of one prompt, then decode by batch size.
TARGETS = {
    "q8_0": {"prefill": 4.5, 1: 1.2, 4: 2.8, 16: 3.8, 32: 5.0},
    "q4_k_m": {"prefill": 2.8, 1: 1.6, 4: 2.2, 16: 2.7, 32: 2.8},
    "q4_0": {"prefill": 2.5, 1: 1.6, 4: 1.6, 16: 1.9, 32: 2.3},
    "bf16": {"prefill": 1.5, 1: 1.2, 4: 1.4, 16: 1.7, 32: 1.8},
    "f16": {"prefill": 1.1, 1: 1.1, 4: 1.4, 16: 1.4, 32: 1.3},
}
# `-b 2048 -ub 512` is llama.cpp's default; no prompt or step here is longer than 512.
VARIANTS = ["", "-fa on", "-fa off", "--no-repack"]
# llama.cpp cuts the context evenly among the sequences, in multiples of this.
CONTEXT_MULTIPLE = 256


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="the llorch-cpud binary, built with --release")
    parser.add_argument("--peer", required=True, type=pathlib.Path, help="folder of llama.cpp's binaries")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--models", nargs="+", type=pathlib.Path, help="files, or a folder that --make-models filled")
    what.add_argument("--make-models", type=pathlib.Path, metavar="DIR", help="write the model files and end")
    parser.add_argument("--vocab", type=pathlib.Path, help="with --make-models: GGUF whose vocabulary is copied")
    parser.add_argument("--types", type=comma_list(str), default=list(TARGETS), help="of a folder: which weights")
    parser.add_argument("--batch", type=comma_list(int), default=[1, 4, 16, 32])
    parser.add_argument("--pp", type=int, default=128, help="prompt tokens")
    parser.add_argument("--tg", type=int, default=32, help="tokens to generate")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--isa", default="auto", help="our instruction-set path")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", type=lambda text: text.split(";"), default=VARIANTS,
                        help="flags of llama-batched-bench to try, as in --variants=';-fa off;--no-repack'")
    parser.add_argument("--target", type=float, help="one target for every cell instead of the table's")
    parser.add_argument("--wrap", default="", help="a command to put before each measured one")
    parser.add_argument("--json", type=pathlib.Path, help="write every figure to this file")
    return parser.parse_args()


def comma_list(item):
    return lambda text: [item(part) for part in text.split(",")]


class Column:
    """A figure of the table: prefill of one prompt, or decode of a number of sequences."""

    def __init__(self, kind, batch):
        self.kind, self.batch = kind, batch

    def __str__(self):
        return f"{self.kind} B={self.batch}"

    def of(self, rows):
        """Tokens per second, where the run came as far."""
        row = rows.get(self.batch)
        return row and row["speed_pp" if self.kind == "prefill" else "speed_tg"]

    def target(self, args, weights):
        if args.target is not None:
            return args.target
        as_stated = args.pp == 128 and args.tg == 32
        return TARGETS.get(weights, {}).get("prefill" if self.kind == "prefill" else self.batch) if as_stated else None


def columns(args):
    decode = [Column("decode", batch) for batch in args.batch]
    return [Column("prefill", 1), *decode] if 1 in args.batch else decode


def json_rows(text):
    """The rows by batch size, from output that may hold other lines."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    return {row["pl"]: row for row in map(json.loads, lines) if row["t_pp"] > 0 and row["t_tg"] > 0}


def batch_list(batches):
    return ",".join(map(str, sorted(batches)))


def run_ours(args, model):
    command = [*args.wrap.split(), args.ours, "bench", "engine", "--json", "--model", model, "--pp", str(args.pp),
               "--tg", str(args.tg), "--batch", batch_list(args.batch), "--threads", str(args.threads),
               "--isa", args.isa]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{args.ours} ended with {done.returncode} on {model}")
    return json_rows(done.stdout)


def run_peer(args, model, variant, batches, crashes, shared_prompt=False):
    """The rows it printed before its end, good or bad. What went wrong is printed and added to `crashes`."""
    length = -(-(args.pp + args.tg) // CONTEXT_MULTIPLE) * CONTEXT_MULTIPLE
    threads = str(args.threads)
    command = [*args.wrap.split(), args.peer / "llama-batched-bench", "-m", model, "-c", str(length * max(batches)),
               "-npp", str(args.pp), "-ntg", str(args.tg), "-npl", batch_list(batches), "-t", threads, "-tb", threads,
               "--output-format", "jsonl", *variant.split(), *(["-pps"] if shared_prompt else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
    rows = json_rows(done.stdout + "\n" + done.stderr)
    missing = sorted(set(batches) - set(rows))
    if done.returncode != 0 or missing:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing printed").splitlines()[-1]
        crash = f"llama-batched-bench {variant!r} on {model.name}: status {done.returncode}, no rows {missing}: {last}"
        print(f"!!!! {crash}", flush=True)
        crashes.append(crash)
    return rows


def best_variants(args, model, crashes):
    """The flags that are fastest for each column; None where all failed. One variant needs no trial."""
    if len(args.variants) == 1:
        return {str(column): args.variants[0] for column in columns(args)}
    speeds = collections.defaultdict(dict)
    for variant in args.variants:
        rows = run_peer(args, model, variant, args.batch, crashes, shared_prompt=True)
        for column in columns(args):
            if column.of(rows):
                speeds[str(column)][variant] = column.of(rows)
        print(f"llama.cpp {variant or 'default':<24}" + "".join(f"{column.of(rows) or 0:9.1f}"
                                                               for column in columns(args)), flush=True)
    return {str(column): max(speeds[str(column)], key=speeds[str(column)].get, default=None)
            for column in columns(args)}


def peer_round(args, model, best, crashes):
    """A run for each kind of flags that is best for some column, with the batch sizes that it is best for."""
    batches = collections.defaultdict(set)
    for column in columns(args):
        if best[str(column)] is not None:
            batches[best[str(column)]].add(column.batch)
    rows = {variant: run_peer(args, model, variant, sizes, crashes) for variant, sizes in batches.items()}
    return {str(column): column.of(rows.get(best[str(column)], {})) for column in columns(args)}


def compare(args, model, crashes):
    """Of each column: our speeds and llama.cpp's by round, and its flags."""
    print(f"\n==== {model.name}: llama.cpp's flags, tokens/s in {', '.join(map(str, columns(args)))}", flush=True)
    best = best_variants(args, model, crashes)
    figures = {str(column): {"flags": best[str(column)], "ours": [], "peer": []} for column in columns(args)}

    def ours():
        rows = run_ours(args, model)
        return {str(column): column.of(rows) for column in columns(args)}

    sides = [("ours", ours), ("peer", lambda: peer_round(args, model, best, crashes))]
    for number in range(args.rounds):
        for side, run in sides if number % 2 == 0 else reversed(sides):
            speeds = run()
            for column, speed in speeds.items():
                figures[column][side].append(speed)
            shown = "".join(f"{speed:9.1f}" if speed else "     none" for speed in speeds.values())
            print(f"round {number + 1}: {side:<25}{shown}", flush=True)
    for figure in figures.values():
        pairs = zip(figure["ours"], figure["peer"])
        figure["ratios"] = [mine / theirs for mine, theirs in pairs if mine and theirs]
    return figures


def median(values):
    values = [value for value in values if value]
    return statistics.median(values) if values else float("nan")


def print_details(args, weights, figures):
    print(f"\n| {weights} | ours t/s | llama.cpp t/s | its flags | ratio (spread) | target | |")
    print("|---|---|---|---|---|---|---|")
    for column in columns(args):
        figure = figures[str(column)]
        flags = "all crashed" if figure["flags"] is None else figure["flags"] or "default"
        print(f"| {column} | {median(figure['ours']):.1f} | {median(figure['peer']):.1f} | {flags} "
              f"| {ratio(figure)} | {verdict(column.target(args, weights), figure)} |")


def ratio(figure):
    ratios = figure["ratios"]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "none"


def verdict(target, figure):
    if target is None:
        return "| "
    if not figure["ratios"]:
        return f"≥ {target} | no figure of llama.cpp's"
    return f"≥ {target} | {'met' if median(figure['ratios']) >= target else '**missed**'}"


def print_summary(args, results):
    """The ratios alone, in the form of the targets."""
    headings = [str(column) for column in columns(args)]
    print(f"\n| weights | {' | '.join(headings)} |\n|---|{'---|' * len(headings)}")
    for weights, figures in results:
        cells = []
        for column in columns(args):
            figure, target = figures[str(column)], column.target(args, weights)
            missed = target is not None and not median(figure["ratios"]) >= target
            aim = "" if target is None else f", {'**missed**' if missed else 'met'} ≥ {target}"
            cells.append(f"{median(figure['ratios']):.2f}×{aim}" if figure["ratios"] else "no figure")
        print(f"| {weights} | {' | '.join(cells)} |")


def cpu_name():
    info = pathlib.Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main():
    args = parse()
    if args.make_models:
        model_files.make(args.ours, args.peer / "llama-quantize", args.make_models, args.vocab)
        return
    models = model_files.find(args.models, args.types)
    print(f"{cpu_name()}, {args.threads} threads, isa {args.isa}; prompt {args.pp}, {args.tg} new tokens, "
          f"{args.rounds} rounds")
    crashes, results = [], []
    for model in models:
        results.append((model_files.weights_of(model), compare(args, model, crashes)))
        print_details(args, *results[-1])
    print_summary(args, results)
    for crash in crashes:
        print(f"\ncrashed: {crash}")
    if args.json:
        settings = {name: getattr(args, name) for name in ("pp", "tg", "batch", "threads", "isa", "rounds")}
        report = {"cpu": cpu_name(), "settings": settings, "crashes": crashes,
                  "models": [{"file": model.name, "weights": weights, "figures": figures}
                             for model, (weights, figures) in zip(models, results)]}
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
