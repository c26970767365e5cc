#!/usr/bin/env python3
"""Prefill and decode speed beside OpenVINO GenAI's: `bench engine` and its continuous batching by turns.

    pip install openvino openvino-genai nncf
    benches/peers/compare_openvino.py --make DIR --model 1b-f16.gguf
    benches/peers/compare_openvino.py --ours target/release/llorch-cpud --model 1b-q8_0.gguf --peer DIR

The first call has OpenVINO read the GGUF file (F16, architecture llama) and compresses its weights to int8, a scale for
each output channel, as `optimum-cli export openvino --weight-format int8` does. The second measures: ours and OpenVINO,
never both at once, the order reversed from round to round. --groups names the groups of dynamic quantisation to try:
0 is OpenVINO's default. Distinct random prompts on both sides. A ratio is of one round; the tables show medians and
spreads. OpenVINO's prefill ends with the first token of the last sequence, and decoding begins there.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import time

import compare_engine

MODEL = "openvino_model.xml"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=pathlib.Path, metavar="DIR", help="convert --model to DIR and end")
    parser.add_argument("--model", type=pathlib.Path, help="GGUF file: of ours, or to convert")
    parser.add_argument("--ours", help="the llorch-cpud binary, built with --release")
    parser.add_argument("--peer", type=pathlib.Path, metavar="DIR", help="what --make wrote")
    parser.add_argument("--groups", type=compare_engine.comma_list(int), default=[0, 128])
    parser.add_argument("--batch", type=compare_engine.comma_list(int), default=[1, 4, 16, 32])
    parser.add_argument("--pp", type=int, default=128, help="prompt tokens")
    parser.add_argument("--tg", type=int, default=32, help="tokens to generate")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", type=int, metavar="GROUP", help=argparse.SUPPRESS)
    # What `compare_engine.run_ours` reads besides.
    parser.set_defaults(wrap="", isa="auto", target=None)
    return parser.parse_args()


def make(source, folder):
    """The reader writes its model beside the file before it makes a tokenizer, which not every vocabulary allows."""
    import nncf
    import openvino
    import openvino_genai

    written = source.parent / MODEL
    try:
        openvino_genai.LLMPipeline(source, "CPU", enable_save_ov_model=True)
    except (RuntimeError, IndexError) as error:
        print(f"no pipeline: {error}")
    if not written.exists():
        sys.exit(f"{written}: not written")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        model = openvino.Core().read_model(written)
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        openvino.save_model(model, folder / MODEL, compress_to_fp16=False)
    finally:
        written.unlink()
        written.with_suffix(".bin").unlink()
    (folder / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": 2}\n')


def measure(args):
    """The child: a row of JSON for each batch, with the names that `bench engine` uses."""
    import openvino
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 2
    scheduler.max_num_batched_tokens = 512
    scheduler.enable_prefix_caching = False
    properties = {"INFERENCE_NUM_THREADS": args.threads, "PERFORMANCE_HINT": "LATENCY"}
    if args.child:
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = args.child
    pipeline = openvino_genai.ContinuousBatchingPipeline(args.peer, scheduler, "CPU", properties)
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.do_sample = args.tg, True, False
    draw = random.Random(1)
    # The first run is for warming up.
    for number, batch in enumerate([1, *args.batch]):
        handles = []
        for sequence in range(batch):
            prompt = openvino.Tensor(openvino.Type.i64, [1, args.pp])
            prompt.data[:] = [[draw.randrange(5, 31000) for _ in range(args.pp)]]
            handles.append(pipeline.add_request(1000 * number + sequence, prompt, config))
        row = run(pipeline, handles, args)
        if number > 0:
            print(json.dumps({"pl": batch, **row}), flush=True)


def run(pipeline, handles, args):
    begin, all_began = time.perf_counter(), None
    counts = [0] * len(handles)
    while pipeline.has_non_finished_requests():
        pipeline.step()
        now = time.perf_counter()
        for index, handle in enumerate(handles):
            while handle.can_read():
                counts[index] += sum(len(output.generated_ids) for output in handle.read().values())
        if all_began is None and min(counts) > 0:
            all_began, counted = now, sum(counts)
    t_pp, t_tg = all_began - begin, now - all_began
    return {"t_pp": t_pp, "t_tg": t_tg, "speed_pp": len(handles) * args.pp / t_pp,
            "speed_tg": (sum(counts) - counted) / t_tg}


def run_peer(args, group):
    command = [sys.executable, __file__, "--child", str(group), "--peer", args.peer, "--pp", str(args.pp),
               "--tg", str(args.tg), "--batch", ",".join(map(str, args.batch)), "--threads", str(args.threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return compare_engine.json_rows(done.stdout)


def main():
    args = parse()
    if args.make:
        return make(args.model, args.make)
    if args.child is not None:
        return measure(args)
    columns = compare_engine.columns(args)
    sides = {"ours": lambda: compare_engine.run_ours(args, args.model)}
    for group in args.groups:
        sides[f"group {group}" if group else "default"] = lambda group=group: run_peer(args, group)
    speeds = {side: [] for side in sides}
    print(f"{compare_engine.cpu_name()}, {args.threads} threads; {', '.join(map(str, columns))}")
    for number in range(args.rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            rows = sides[side]()
            speeds[side].append([column.of(rows) for column in columns])
            shown = "".join(f"{speed:9.1f}" for speed in speeds[side][-1])
            print(f"round {number + 1}: {side:<12}{shown}", flush=True)
    for side in list(sides)[1:]:
        print(f"\n| {args.model.name} | ours t/s | OpenVINO, {side} | ratio (spread) |\n|---|---|---|---|")
        for index, column in enumerate(columns):
            ours, peer = ([run[index] for run in speeds[which]] for which in ("ours", side))
            figure = {"ratios": [mine / theirs for mine, theirs in zip(ours, peer)]}
            print(f"| {column} | {compare_engine.median(ours):.1f} | {compare_engine.median(peer):.1f} "
                  f"| {compare_engine.ratio(figure)} |")


if __name__ == "__main__":
    main()
