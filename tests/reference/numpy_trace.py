#!/usr/bin/env python3
"""The checkpoints of a run as `forward_f64.py` computes them, rounded once to f32.

    numpy_trace.py MODEL.gguf --prompt-tokens 1,2,3 --max-tokens 64 --out DIR
"""

import argparse

import numpy as np

import forward_f64
from gguf_model import Model
from trace_files import Trace


def trace(model, prompt, count, context, gelu_table=False):
    """The trace of `prompt` and `count` tokens chosen by argmax, in a session of `context` positions."""
    options = {"context": context, "gelu_table": gelu_table}
    tokens = forward_f64.greedy(model, prompt, count, **options)
    result = Trace(f"numpy {np.__version__} float64", model, prompt, tokens)
    result.finish(forward_f64.forward(model, (prompt + tokens)[:-1], watch=result.watch, **options))
    return result


def arguments(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt-tokens", required=True, help="token ids, comma separated")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N")
    parser.add_argument("--context", type=int, default=256, metavar="N", help="positions of the session")
    parser.add_argument("--out", required=True, metavar="DIR")
    return parser


def main():
    parser = arguments(__doc__)
    parser.add_argument("--gelu-table", action="store_true", help="round GELU as llama.cpp does")
    args = parser.parse_args()
    prompt = [int(t) for t in args.prompt_tokens.split(",")]
    result = trace(Model(args.model), prompt, args.max_tokens, args.context, args.gelu_table)
    result.write(args.out)
    print(",".join(map(str, result.tokens)))


if __name__ == "__main__":
    main()
