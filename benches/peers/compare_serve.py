#!/usr/bin/env python3
"""Serves one model file with llorch-cpud and with llama-server, by turns, and loads both with `bench serve`.

    benches/peers/compare_serve.py --ours target/release/llorch-cpud --llama-server PATH --model FILE.gguf \\
        [--concurrency 32] [--rate R] [--requests 64] [--prompt-tokens 128] [--gen-tokens 64] [--rounds 3] \\
        [--open-loop 0.8] [--serve-flags="--target-itl 100"] [--llama-flags="--no-repack"]

Each round starts one server on a free port, loads it, stops it, and does the same with the other: never both at once.
Both get the same requests from the same client. Prints each round, the medians, and the median ratio with its spread.
`--open-loop SHARE` does it all again in open loop, at that share of the requests a second that llama-server had.
"""

import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "ops"))
import running_server  # noqa: E402

# Key of the JSON report, heading, and whether more is better.
FIGURES = [
    ("output_throughput", "output tokens/s", True),
    ("median_ttft_ms", "TTFT p50 ms", False),
    ("p99_ttft_ms", "TTFT p99 ms", False),
    ("median_itl_ms", "gap p50 ms", False),
    ("p99_itl_ms", "gap p99 ms", False),
    ("max_itl_ms", "worst gap ms", False),
    ("failed", "failed", None),
]
START_SECONDS = 300


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="the llorch-cpud binary, built with --release")
    parser.add_argument("--llama-server", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--concurrency", type=int, default=32, help="also the slots of llama-server")
    parser.add_argument("--rate", type=float, help="an open loop instead of a closed one")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--gen-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--open-loop", type=float, metavar="SHARE")
    parser.add_argument("--serve-flags", default="", help="more flags of our server, in one text")
    parser.add_argument("--llama-flags", default="", help="more flags of llama-server, in one text")
    return parser.parse_args()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, server, log, what):
    return running_server.wait_for(condition, server, log, what, START_SECONDS)


def start_ours(args, log):
    command = [args.ours, "serve", "--model", args.model, "--threads", str(args.threads),
               "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", *args.serve_flags.split()]
    server = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT)

    def bound(flag):
        return wait_for(lambda: running_server.logged(log, rf"{flag} (127\.0\.0\.1:\d+)\n"), server, log, flag)

    metrics = bound("--metrics-listen")
    wait_for(lambda: running_server.get(f"http://{metrics}/readyz"), server, log, "readiness")
    return server, "http://" + bound("--listen")


def start_llama(args, log):
    """A slot for each concurrent request, each with room for the whole of it."""
    slots, port = args.concurrency, free_port()
    length = -(-(args.prompt_tokens + args.gen_tokens) // 256) * 256
    command = [args.llama_server, "-m", args.model, "-np", str(slots), "-c", str(slots * length),
               "-t", str(args.threads), "-tb", str(args.threads),
               "--host", "127.0.0.1", "--port", str(port), *args.llama_flags.split()]
    server = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT)
    wait_for(lambda: running_server.get(f"http://127.0.0.1:{port}/health"), server, log, "readiness")
    return server, f"http+llama://127.0.0.1:{port}"


def run(args, start, scratch):
    server, target = start(args, scratch / "server.log")
    load = ["--rate", str(args.rate)] if args.rate is not None else ["--concurrency", str(args.concurrency)]
    report = scratch / "report.json"
    try:
        subprocess.run([args.ours, "bench", "serve", "--target", target, *load, "--requests", str(args.requests),
                        "--prompt-tokens", str(args.prompt_tokens), "--gen-tokens", str(args.gen_tokens),
                        "--warm-up", "2", "--json", report], check=True)
    finally:
        server.terminate()
        server.wait(timeout=60)
    return json.loads(report.read_text())


def ratio(key, more_is_better, ours, theirs):
    ratios = [mine[key] / max(other[key], 1e-9) for mine, other in zip(ours, theirs)]
    if not more_is_better:
        ratios = [1 / max(value, 1e-9) for value in ratios]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def rounds(args, scratch):
    """Both servers by turns. Returns the reports of ours and of theirs."""
    ours, theirs = [], []
    for number in range(args.rounds):
        for name, start, results in [("llorch-cpud", start_ours, ours), ("llama-server", start_llama, theirs)]:
            print(f"\n==== round {number + 1}: {name}", flush=True)
            results.append(run(args, start, scratch))
    return ours, theirs


def table(title, ours, theirs):
    print(f"\n{title}\n\n| | llorch-cpud | llama-server | better by, median of {len(ours)} (spread) |")
    print("|---|---|---|---|")
    for key, heading, more_is_better in FIGURES:
        mine, other = (statistics.median(result[key] for result in results) for results in (ours, theirs))
        better = "" if more_is_better is None else ratio(key, more_is_better, ours, theirs)
        print(f"| {heading} | {mine:.1f} | {other:.1f} | {better} |", flush=True)


def main():
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        ours, theirs = rounds(args, scratch)
        load = f"{args.concurrency} streams" if args.rate is None else f"{args.rate} requests a second"
        table(f"{pathlib.Path(args.model).name}, {load}", ours, theirs)
        if args.open_loop is not None:
            args.rate = args.open_loop * statistics.median(report["request_throughput"] for report in theirs)
            ours, theirs = rounds(args, scratch)
            table(f"{pathlib.Path(args.model).name}, open loop, {args.rate:.3f} requests a second", ours, theirs)


if __name__ == "__main__":
    main()
