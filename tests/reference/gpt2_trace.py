#!/usr/bin/env python3
"""The checkpoints of a GPT-2 run in tinygrad: its reader of GGUF files, its operators, float32.

    pip install tinygrad==0.10.3          # with LLVM's shared library, 14 to 20, in the system
    gpt2_trace.py MODEL.gguf --prompt-tokens 1,2,3 --max-tokens 64 --out DIR
"""

import os

os.environ.setdefault("LLVM", "1")
# Vectors in the generated code need pointers as LLVM has them since 15; plain loops do with 14.
os.environ.setdefault("NOOPT", "1")

import pathlib
import sys

import numpy as np
from tinygrad import Device, Tensor, nn
from tinygrad.nn.state import gguf_load

from gguf_model import Model
from numpy_trace import arguments
from trace_files import Trace

VERSION = "0.10.3"


class Gpt2:
    """Radford et al. 2019: blocks that norm their inputs, learned positions, GELU in its tanh form, a tied head."""

    def __init__(self, path):
        keys, tensors = gguf_load(Tensor(pathlib.Path(path)).to(Device.DEFAULT))
        self.tensors = {name: tensor.float().realize() for name, tensor in tensors.items()}
        if keys["general.architecture"] != "gpt2":
            sys.exit(f"{path}: architecture {keys['general.architecture']} is not gpt2")
        self.layers, self.heads = keys["gpt2.block_count"], keys["gpt2.attention.head_count"]
        self.hidden = keys["gpt2.embedding_length"]
        self.eps = keys["gpt2.attention.layer_norm_epsilon"]

    def norm(self, x, name):
        norm = nn.LayerNorm(self.hidden, eps=self.eps)
        norm.weight, norm.bias = self.tensors[name + ".weight"], self.tensors[name + ".bias"]
        return norm(x)

    def linear(self, x, name):
        return x.linear(self.tensors[name + ".weight"].transpose(), self.tensors[name + ".bias"])

    def block(self, layer, x, watch):
        """The residual stream `[T, hidden]` after a block."""
        length, block = x.shape[0], f"blk.{layer}."
        h = self.norm(x, block + "attn_norm")
        watch("attn_norm", layer, h)
        q, k, v = self.linear(h, block + "attn_qkv").chunk(3, dim=-1)
        for name, value in (("q", q), ("k", k), ("v", v), ("k_cache", k), ("v_cache", v)):
            watch(name, layer, value)
        q, k, v = (t.reshape(length, self.heads, -1).transpose(0, 1) for t in (q, k, v))
        scores = q @ k.transpose(1, 2) / (self.hidden // self.heads) ** 0.5
        future = Tensor.ones(length, length).triu(1).cast("bool")
        scores = future.where(-float("inf"), scores)
        watch("scores", layer, scores.transpose(0, 1))
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(length, -1)
        attended = self.linear(mixed, block + "attn_output")
        watch("attn_out", layer, attended)
        x = x + attended
        h = self.norm(x, block + "ffn_norm")
        fed = self.linear(self.linear(h, block + "ffn_up").gelu(), block + "ffn_down")
        watch("ffn_out", layer, fed)
        x = x + fed
        watch("block_out", layer, x)
        return x

    def logits(self, tokens, watch=lambda name, layer, value: None):
        """`[T, V]` of every position."""
        embedding = self.tensors["token_embd.weight"]
        x = embedding[Tensor(tokens)] + self.tensors["position_embd.weight"][: len(tokens)]
        for layer in range(self.layers):
            x = self.block(layer, x, watch).realize()
        x = self.norm(x, "output_norm")
        return (x @ self.tensors.get("output.weight", embedding).transpose()).numpy()


def trace(path, prompt, count):
    """The trace of `prompt` and `count` tokens chosen by argmax."""
    gpt2, tokens = Gpt2(path), []
    length = len(prompt) + count - 1
    while len(tokens) < count:
        # Of one length always, so that one compilation serves; what stands behind changes nothing before it.
        known = (prompt + tokens)[:length]
        logits = gpt2.logits(known + [0] * (length - len(known)))
        tokens.append(int(np.argmax(logits[len(prompt) + len(tokens) - 1])))
    result = Trace(f"tinygrad {VERSION} float32", Model(path), prompt, tokens)
    watch = lambda name, layer, value: result.watch(name, layer, value.numpy())
    result.finish(gpt2.logits((prompt + tokens)[:-1], watch))
    return result


def main():
    args = arguments(__doc__).parse_args()
    result = trace(args.model, [int(t) for t in args.prompt_tokens.split(",")], args.max_tokens)
    result.write(args.out)
    print(",".join(map(str, result.tokens)))


if __name__ == "__main__":
    main()
