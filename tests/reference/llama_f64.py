#!/usr/bin/env python3
"""A float64 forward pass of the llama architecture over a GGUF file: the reference the logits are held to.

    llama_f64.py MODEL.gguf --tokens 1,15,27 --greedy 20 --out logits.npy

Written for reading, not for speed: no KV cache, no batches; each call computes plain causal attention over the
whole prompt. Weights are dequantised exactly and all arithmetic is float64. Two options imitate roundings that the
engine makes by contract: `--kv f16` and `--int8-activations`.

Shape letters: T positions, H query heads, G key/value heads, D head_dim, R rotated dimensions, V vocabulary.
"""

import argparse

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

FLOAT_TYPES = ("F32", "F16", "BF16")
# Integer types, and over how many activations our engine takes one scale for them.
ACTIVATION_BLOCKS = {
    **dict.fromkeys(("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4"), 32),
    **dict.fromkeys(("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"), 256),
}


class Model:
    """Sizes and weights of one file. Matrices are float64 `[N, K]`: N output features, K input features."""

    def __init__(self, path):
        reader = GGUFReader(path)
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        if self.fields["general.architecture"] != "llama":
            raise SystemExit(f"{path}: architecture {self.fields['general.architecture']} is not llama")
        self.hidden = self.key("embedding_length")
        self.layers = self.key("block_count")
        self.heads = self.key("attention.head_count")
        self.kv_heads = self.key("attention.head_count_kv", self.heads)
        self.head_dim = self.key("attention.key_length", self.hidden // self.heads)
        self.value_dim = self.key("attention.value_length", self.head_dim)
        self.eps = self.key("attention.layer_norm_rms_epsilon")
        self.rotated = self.key("rope.dimension_count", self.head_dim)
        self.freq_base = self.key("rope.freq_base", 10000.0)
        self.position_scale = 1.0
        if self.key("rope.scaling.type", "none") == "linear":
            self.position_scale = 1.0 / self.key("rope.scaling.factor")
        self.tensors, self.types = {}, {}
        for t in reader.tensors:
            kind = GGMLQuantizationType(t.tensor_type)
            if kind.name not in FLOAT_TYPES and kind.name not in ACTIVATION_BLOCKS:
                raise SystemExit(f"{path}: tensor {t.name}: type {kind.name} is not handled")
            # Without rounding, but for the types with minimums, which round once to f32.
            self.tensors[t.name] = np.asarray(dequantize(t.data, kind), dtype=np.float64)
            self.types[t.name] = kind.name
        self.vocab = len(self.tensors["token_embd.weight"])

    def key(self, name, default=None):
        value = self.fields.get("llama." + name, default)
        if value is None:
            raise SystemExit(f"key llama.{name} is missing")
        return value


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rope(x, model):
    """Rotates the pairs (2i, 2i + 1) of the first R dimensions of `x` `[T, heads, D]`; row t is position t."""
    pairs = model.rotated // 2
    freq = np.float64(model.freq_base) ** (-2.0 * np.arange(pairs) / model.rotated)
    if "rope_freqs.weight" in model.tensors:
        freq = freq / model.tensors["rope_freqs.weight"][:pairs]
    angle = np.arange(len(x))[:, None] * model.position_scale * freq[None, :]
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    even, odd = x[..., 0 : model.rotated : 2], x[..., 1 : model.rotated : 2]
    out = x.copy()
    out[..., 0 : model.rotated : 2] = even * cos - odd * sin
    out[..., 1 : model.rotated : 2] = even * sin + odd * cos
    return out


def attention(q, k, v):
    """Causal attention of `q` `[T, H, D]` over `k`, `v` `[T, G, D]`; query head h reads key/value head h // (H/G)."""
    positions, heads, head_dim = q.shape
    group = heads // k.shape[1]
    out = np.empty((positions, heads, v.shape[2]))
    hidden_future = np.triu(np.ones((positions, positions), dtype=bool), 1)
    for h in range(heads):
        scores = q[:, h] @ k[:, h // group].T / np.sqrt(head_dim)
        scores[hidden_future] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, h] = weights / weights.sum(axis=1, keepdims=True) @ v[:, h // group]
    return out.reshape(positions, -1)


def silu(x):
    return x / (1.0 + np.exp(-x))


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


def forward(model, tokens, kv="f32", int8_activations=False, perturb=None):
    """Logits `[T, V]` of every position of `tokens`. `perturb(x)`, if given, disturbs the input of every matmul."""

    def matmul(x, name):
        if int8_activations and model.types[name] in ACTIVATION_BLOCKS:
            x = int8_blocks(x, ACTIVATION_BLOCKS[model.types[name]])
        return (perturb(x) if perturb else x) @ model.tensors[name].T

    def stored(x):
        return x.astype(np.float32).astype(np.float16).astype(np.float64) if kv == "f16" else x

    x = model.tensors["token_embd.weight"][list(tokens)]
    for layer in range(model.layers):
        block = f"blk.{layer}."
        h = rms_norm(x, model.tensors[block + "attn_norm.weight"], model.eps)
        q = matmul(h, block + "attn_q.weight").reshape(len(x), model.heads, model.head_dim)
        k = matmul(h, block + "attn_k.weight").reshape(len(x), model.kv_heads, model.head_dim)
        v = matmul(h, block + "attn_v.weight").reshape(len(x), model.kv_heads, model.value_dim)
        mixed = attention(rope(q, model), stored(rope(k, model)), stored(v))
        x = x + matmul(mixed, block + "attn_output.weight")
        h = rms_norm(x, model.tensors[block + "ffn_norm.weight"], model.eps)
        gated = silu(matmul(h, block + "ffn_gate.weight")) * matmul(h, block + "ffn_up.weight")
        x = x + matmul(gated, block + "ffn_down.weight")
    x = rms_norm(x, model.tensors["output_norm.weight"], model.eps)
    head = "output.weight" if "output.weight" in model.tensors else "token_embd.weight"
    return matmul(x, head)


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
    parser.add_argument("--out", help="write the logits of every position to this .npy")
    args = parser.parse_args()
    model = Model(args.model)
    tokens = [int(t) for t in args.tokens.split(",")]
    options = {"kv": args.kv, "int8_activations": args.int8_activations}
    if args.greedy:
        print(",".join(map(str, greedy(model, tokens, args.greedy, **options))))
    logits = forward(model, tokens, **options)
    if args.out:
        np.save(args.out, logits)
    if not args.greedy and not args.out:
        print("argmax of each position:", ",".join(map(str, logits.argmax(axis=1))))


if __name__ == "__main__":
    main()
