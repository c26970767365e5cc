#!/usr/bin/env python3
"""A float64 forward pass over a GGUF file of any architecture we run: the reference the logits are held to.

    forward_f64.py MODEL.gguf --tokens 1,15,27 --greedy 20 --out logits.npy

Written for reading, not for speed: no KV cache, no batches; each call computes plain causal attention over the
whole prompt. Weights are dequantised exactly and all arithmetic is float64. Options imitate roundings: of the engine
by contract (`--kv f16`, `--int8-activations`), of llama.cpp's GELU (`--gelu-table`).

Shape letters: T positions, H query heads, G key/value heads, D head_dim, R rotated dimensions, V vocabulary.
"""

import argparse
import dataclasses
from typing import Callable

import numpy as np

from gguf_model import ACTIVATION_BLOCKS, Model


@dataclasses.dataclass(frozen=True)
class Options:
    """Roundings to imitate, and who watches."""

    kv: str = "f32"
    int8_activations: bool = False
    gelu_table: bool = False
    # Disturbs the input of every matmul.
    perturb: Callable | None = None
    # Positions of the session, which decides between Phi-3's divisors; None: those of the file.
    context: int | None = None
    # Called with the name of a value of the trace, the layer and the value.
    watch: Callable = lambda name, layer, value: None


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def layer_norm(x, weight, bias, eps):
    centred = x - np.mean(x, axis=-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + eps) * weight + bias


def rope(x, frequencies, magnitude, pairing):
    """Rotates the first R dimensions of each head of `x` `[T, heads, D]`; row t is position t."""
    pairs = len(frequencies)
    if pairing == "adjacent":
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    else:
        first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    angle = np.arange(len(x))[:, None] * frequencies[None, :]
    cos, sin = magnitude * np.cos(angle)[:, None, :], magnitude * np.sin(angle)[:, None, :]
    a, b = x[..., first], x[..., second]
    out = x.copy()
    out[..., first] = a * cos - b * sin
    out[..., second] = a * sin + b * cos
    return out


def attention_scores(model, layer, q, k):
    """`[T, H, T]` scores of `q` `[T, H, D]` over `k` `[T, G, D]`; -inf where a query does not see a key."""
    positions, heads, _ = q.shape
    scores = np.einsum("qhd,khd->qhk", q, np.repeat(k, heads // k.shape[1], axis=1)) * model.score_scale
    if model.score_cap:
        scores = model.score_cap * np.tanh(scores / model.score_cap)
    distance = np.arange(positions)[:, None] - np.arange(positions)[None, :]
    hidden = distance < 0
    if layer in model.local_layers:
        hidden |= distance >= model.window
    return np.where(hidden[:, None, :], -np.inf, scores)


def softmax(scores):
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def silu(x):
    return x / (1.0 + np.exp(-x))


def gelu(x):
    """The tanh form of Hendrycks and Gimpel 2016."""
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def gelu_by_table(x):
    """GELU as llama.cpp takes it between -10 and 10: from f16 to f16."""
    rounded = gelu(x.astype(np.float32).astype(np.float16).astype(np.float64))
    table = rounded.astype(np.float32).astype(np.float16).astype(np.float64)
    return np.where(x <= -10.0, 0.0, np.where(x >= 10.0, x, table))


def int8_blocks(x, block):
    """`x` `[T, K]` as specs/numerics.md rounds it: per 32 or 256 values (`block`), scale amax/127 in f32."""
    rows, width = x.shape
    blocks = x.astype(np.float32).reshape(rows, width // block, block)
    amax = np.abs(blocks).max(axis=2, keepdims=True)
    scale = amax / np.float32(127)
    with np.errstate(divide="ignore"):
        inverse = np.where(amax > 0, np.float32(127) / amax, np.float32(0))
    rounded = np.clip(np.rint(blocks * inverse), -127, 127)
    return (rounded.astype(np.float64) * scale.astype(np.float64)).reshape(rows, width)


class Forward:
    """One pass of `model` over `tokens`."""

    def __init__(self, model, options):
        self.model, self.options = model, options

    def has(self, name):
        return name in self.model.tensors

    def linear(self, x, name):
        """`x` `[T, K]` by the matrix `name.weight`, plus `name.bias` if it is there."""
        y = self._product(x, self.model.tensors[name + ".weight"], self.model.types[name + ".weight"])
        return y + self.model.tensors[name + ".bias"] if self.has(name + ".bias") else y

    def _product(self, x, matrix, kind):
        if self.options.int8_activations and kind in ACTIVATION_BLOCKS:
            x = int8_blocks(x, ACTIVATION_BLOCKS[kind])
        return (self.options.perturb(x) if self.options.perturb else x) @ matrix.T

    def norm(self, x, name):
        weight = self.model.tensors[name + ".weight"]
        if self.model.kind.layer_norm:
            return layer_norm(x, weight, self.model.tensors.get(name + ".bias", 0.0), self.model.eps)
        return rms_norm(x, weight, self.model.eps)

    def activation(self, x):
        if not self.model.kind.gelu:
            return silu(x)
        return gelu_by_table(x) if self.options.gelu_table else gelu(x)

    def project(self, block, h):
        """Queries, keys and values `[T, heads * D]` of the normed rows `h`."""
        model = self.model
        if not self.has(block + "attn_qkv.weight"):
            return tuple(self.linear(h, block + name) for name in ("attn_q", "attn_k", "attn_v"))
        q_rows, k_rows = model.heads * model.head_dim, model.kv_heads * model.head_dim
        return np.split(self.linear(h, block + "attn_qkv"), [q_rows, q_rows + k_rows], axis=1)

    def head_norm(self, rows, name, heads):
        """`rows` `[T, heads * D]` normed over each head, or over the whole row where the weight is that long."""
        weight = self.model.tensors[name + ".weight"]
        if weight.ndim == 1 and len(weight) == rows.shape[1] and heads > 1:
            return self.norm(rows, name)
        return self.norm(rows.reshape(len(rows), heads, -1), name).reshape(rows.shape)

    def attend(self, layer, h):
        """Attention `[T, hidden]` of the normed rows `h`, output projection included."""
        model, watch, block = self.model, self.options.watch, f"blk.{layer}."
        rows = len(h)
        q, k, v = self.project(block, h)
        for name, value in (("q", q), ("k", k), ("v", v)):
            watch(name, layer, value)
        if self.has(block + "attn_q_norm.weight"):
            q = self.head_norm(q, block + "attn_q_norm", model.heads)
            k = self.head_norm(k, block + "attn_k_norm", model.kv_heads)
            watch("q_norm", layer, q)
            watch("k_norm", layer, k)
        q, k = q.reshape(rows, model.heads, -1), k.reshape(rows, model.kv_heads, -1)
        v = v.reshape(rows, model.kv_heads, -1)
        if model.rotates:
            frequencies, magnitude = model.rotation(layer, self.options.context or model.context)
            q, k = (rope(x, frequencies, magnitude, model.kind.pairing) for x in (q, k))
            watch("q_rope", layer, q.reshape(rows, -1))
            watch("k_rope", layer, k.reshape(rows, -1))
        if self.options.kv == "f16":
            k, v = (x.astype(np.float32).astype(np.float16).astype(np.float64) for x in (k, v))
        watch("k_cache", layer, k.reshape(rows, -1))
        watch("v_cache", layer, v.reshape(rows, -1))
        scores = attention_scores(model, layer, q, k)
        watch("scores", layer, scores)
        v = np.repeat(v, model.heads // model.kv_heads, axis=1)
        mixed = np.einsum("qhk,khd->qhd", softmax(scores), v).reshape(rows, -1)
        return self.linear(mixed, block + "attn_output")

    def feed_forward(self, layer, h):
        block, ffn_up = f"blk.{layer}.", f"blk.{layer}.ffn_up"
        if self.has(block + "ffn_gate_inp.weight"):
            return self.experts(block, h)
        if self.has(block + "ffn_gate.weight"):
            inner = self.activation(self.linear(h, block + "ffn_gate")) * self.linear(h, ffn_up)
        elif self.model.arch == "phi3":
            gate, up = np.split(self.linear(h, ffn_up), 2, axis=1)
            inner = self.activation(gate) * up
        else:
            inner = self.activation(self.linear(h, ffn_up))
        return self.linear(inner, block + "ffn_down")

    def experts(self, block, h):
        """The weighted sum of the experts that the router gives most; their weights are scaled to sum to 1."""

        def matrix(part, expert):
            name = f"{block}ffn_{part}_exps.weight"
            return self.model.tensors[name][expert], self.model.types[name]

        shares = softmax(self.linear(h, block + "ffn_gate_inp"))
        chosen = np.argsort(-shares, axis=1, kind="stable")[:, : self.model.experts_used]
        kept = np.take_along_axis(shares, chosen, axis=1)
        kept = kept / kept.sum(axis=1, keepdims=True)
        out = np.zeros_like(h)
        for expert in np.unique(chosen):
            rows, place = np.nonzero(chosen == expert)
            x = h[rows]
            inner = silu(self._product(x, *matrix("gate", expert))) * self._product(x, *matrix("up", expert))
            out[rows] += kept[rows, place][:, None] * self._product(inner, *matrix("down", expert))
        return out

    def block(self, layer, x):
        """The residual stream `[T, hidden]` after a block."""
        model, watch, block = self.model, self.options.watch, f"blk.{layer}."
        h = x
        if self.has(block + "attn_norm.weight"):
            h = self.norm(x, block + "attn_norm")
            watch("attn_norm", layer, h)
        attended = self.attend(layer, h)
        watch("attn_out", layer, attended)
        if self.has(block + "post_attention_norm.weight"):
            attended = self.norm(attended, block + "post_attention_norm")
        x = x + model.residual_scale * attended
        if self.has(block + "ffn_norm.weight"):
            h = self.norm(x, block + "ffn_norm")
        elif not self.has(block + "attn_norm.weight"):
            h = x
        # Else both halves of the block read the first norm.
        fed = self.feed_forward(layer, h)
        watch("ffn_out", layer, fed)
        if self.has(block + "post_ffw_norm.weight"):
            fed = self.norm(fed, block + "post_ffw_norm")
        x = x + model.residual_scale * fed
        watch("block_out", layer, x)
        return x

    def logits(self, tokens):
        """`[T, V]` of every position."""
        model = self.model
        x = model.tensors["token_embd.weight"][list(tokens)] * model.embedding_scale
        if self.has("position_embd.weight"):
            x = x + model.tensors["position_embd.weight"][: len(x)]
        for layer in range(model.layers):
            x = self.block(layer, x)
        out = self.linear(self.norm(x, "output_norm"), model.head.removesuffix(".weight")) / model.logit_divisor
        return model.logit_cap * np.tanh(out / model.logit_cap) if model.logit_cap else out


def forward(model, tokens, **options):
    """Logits `[T, V]` of every position of `tokens`; `options` are those of [`Options`]."""
    return Forward(model, Options(**options)).logits(tokens)


def greedy(model, tokens, count, **options):
    """The `count` tokens that argmax (the lowest id among equals) appends to `tokens`."""
    tokens = list(tokens)
    start = len(tokens)
    for _ in range(count):
        tokens.append(int(np.argmax(forward(model, tokens, **options)[-1])))
    return tokens[start:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", required=True, help="prompt token ids, comma separated")
    parser.add_argument("--greedy", type=int, default=0, metavar="N", help="append N tokens by argmax and print them")
    parser.add_argument("--kv", choices=["f32", "f16"], default="f32", help="round K (after RoPE) and V to this type")
    parser.add_argument("--int8-activations", action="store_true", help="round the inputs of integer matmuls as we do")
    parser.add_argument("--gelu-table", action="store_true", help="round GELU as llama.cpp does")
    parser.add_argument("--out", help="write the logits of every position to this .npy")
    args = parser.parse_args()
    model = Model(args.model)
    tokens = [int(t) for t in args.tokens.split(",")]
    options = {"kv": args.kv, "int8_activations": args.int8_activations, "gelu_table": args.gelu_table}
    if args.greedy:
        print(",".join(map(str, greedy(model, tokens, args.greedy, **options))))
    logits = forward(model, tokens, **options)
    if args.out:
        np.save(args.out, logits)
    if not args.greedy and not args.out:
        print("argmax of each position:", ",".join(map(str, logits.argmax(axis=1))))


if __name__ == "__main__":
    main()
