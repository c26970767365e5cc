#!/usr/bin/env python3
"""How much a long prompt stretches the gaps between the tokens of streams that are being answered.

    benches/peers/long_prompt_gap.py --ours target/release/llorch-cpud --model FILE.gguf \\
        [--streams 16] [--gen-tokens 200] [--prompt-tokens 1500] [--prompts 1] [--rounds 3]
        [--serve-flags="--target-itl 100"] [--llama-server PATH] [--llama-flags="--no-repack"]

A round starts a server on a free port and loads it twice with streams of short prompts: once alone, and once with long
prompts, one after the other, from the moment that all streams decode. Prints the gaps of the streams (median, 99th
percentile, longest) without and with the prompts, their ratios, and how long a prompt took to its first token; then
the medians of the rounds. With --llama-server each round does the same with that server. Every figure is of
`bench serve`; the prefix caches are not used.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import compare_serve

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "ops"))
import running_server  # noqa: E402

FIGURES = [("median_itl_ms", "gap p50 ms"), ("p99_itl_ms", "gap p99 ms"), ("max_itl_ms", "longest gap ms")]
STREAM_PROMPT_TOKENS = 8


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="the llorch-cpud binary, built with --release")
    parser.add_argument("--llama-server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--gen-tokens", type=int, default=200, help="of each stream")
    parser.add_argument("--prompt-tokens", type=int, default=1500, help="of a long prompt")
    parser.add_argument("--prompts", type=int, default=1, help="long prompts, one after the other")
    parser.add_argument("--after", type=float, help="seconds from the first stream to the first long prompt "
                        "[default: when each stream of ours has 8 tokens; 2 for llama-server]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--serve-flags", default="", help="more flags of our server, in one text")
    parser.add_argument("--llama-flags", default="", help="more flags of llama-server, in one text")
    args = parser.parse_args()
    # What compare_serve sizes llama-server's slots by: each has room for the long prompt.
    args.concurrency = args.streams + 1
    return args


def bench(args, target, scratch, name, concurrency, requests, prompt_tokens, gen_tokens, seed):
    """A load client on its way, and where its report will be."""
    report = scratch / f"{name}.json"
    client = subprocess.Popen(
        [args.ours, "bench", "serve", "--target", target, "--concurrency", str(concurrency),
         "--requests", str(requests), "--prompt-tokens", str(prompt_tokens), "--gen-tokens", str(gen_tokens),
         "--warm-up", "0", "--seed", str(seed), "--json", report], stdout=subprocess.DEVNULL)
    return client, report


def result(client, report):
    if client.wait() != 0:
        raise SystemExit(f"bench serve ended with {client.returncode}")
    figures = json.loads(report.read_text())
    if figures["failed"] > 0:
        raise SystemExit(f"{report.name}: {figures['failed']} requests failed")
    return figures


def generated(metrics):
    """Tokens that our server has generated."""
    text = running_server.get(f"http://{metrics}/metrics")
    lines = [line for line in text.splitlines() if line.startswith("llorch_generation_tokens_total ")]
    return float(lines[0].split()[1]) if lines else 0.0


def measure(args, server, target, log, scratch, is_ours):
    """The figures of the streams alone, of the streams with the prompts, and of the prompts."""
    streams = (args.streams, args.streams, STREAM_PROMPT_TOKENS, args.gen_tokens)
    # A first load, so that weights are in memory and what the server learns is learnt.
    result(*bench(args, target, scratch, "warm", *streams, 1))
    alone = result(*bench(args, target, scratch, "alone", *streams, 2))
    metrics = running_server.logged(log, r"--metrics-listen (127\.0\.0\.1:\d+)\n") if is_ours else None
    before = generated(metrics) if metrics else 0.0
    client, report = bench(args, target, scratch, "beside", *streams, 3)
    if args.after is None and metrics:
        reached = before + 8 * args.streams
        running_server.wait_for(lambda: generated(metrics) >= reached, server, log, "streams")
    else:
        time.sleep(args.after if args.after is not None else 2.0)
    prompts = result(*bench(args, target, scratch, "prompts", 1, args.prompts, args.prompt_tokens, 2, 4))
    if client.poll() is not None:
        print("!! the streams ended before the prompts did: more --gen-tokens are needed")
    return alone, result(client, report), prompts


def run(args, name, scratch):
    log, is_ours = scratch / "server.log", name == "llorch-cpud"
    server, target = (compare_serve.start_ours if is_ours else compare_serve.start_llama)(args, log)
    try:
        return measure(args, server, target, log, scratch, is_ours)
    finally:
        server.terminate()
        server.wait(timeout=60)


def show(title, alone, beside, ttft_ms):
    print(f"\n| {title} | without | with | ratio |\n|---|---|---|---|")
    for key, heading in FIGURES:
        print(f"| {heading} | {alone[key]:.1f} | {beside[key]:.1f} | {beside[key] / max(alone[key], 1e-9):.2f} |")
    print(f"| prompt to first token ms | | {ttft_ms:.1f} | |", flush=True)


def median(results, key):
    return statistics.median(one[key] for one in results)


def main():
    args = parse()
    names = ["llorch-cpud"] + (["llama-server"] if args.llama_server else [])
    rounds = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(args.rounds):
            for name in names:
                alone, beside, prompts = run(args, name, pathlib.Path(scratch))
                rounds[name].append((alone, beside, prompts))
                show(f"{name}, round {number + 1}", alone, beside, prompts["median_ttft_ms"])
    for name in names:
        alone, beside, prompts = zip(*rounds[name])
        medians = [{key: median(results, key) for key, _ in FIGURES} for results in (alone, beside)]
        show(f"{name}, medians of {args.rounds}", *medians, median(prompts, "median_ttft_ms"))


if __name__ == "__main__":
    main()
