#!/usr/bin/env python3
"""The numbers of the validation tables in specs/, from the documents' formulae: float64 NumPy and exact integers.

    spec_vectors.py            prints every table
    spec_vectors.py --write    puts them into the documents
    spec_vectors.py --check    fails where a document has other numbers

A table `**Validation ID name**` that is not made here was written by hand or published elsewhere, as its document says.
"""

import argparse
import math
import pathlib
import re
import sys

import numpy as np

SPECS = pathlib.Path(__file__).resolve().parents[2] / "specs"
GPT2, LLAMA2, SAMPLING = "01_GPT2_PIPELINE.md", "02_LLAMA2_PIPELINE.md", "05_SAMPLING.md"


def worked_weights(kind, s, shape):
    """Tensor number s of a worked example, of `shape` slowest first; every number is exact in f32."""
    e = np.arange(math.prod(shape), dtype=np.int64)
    r = ((1000 * s + 37 * e + 11) ** 2 % 65537) % 101
    value = {"matrix": (r - 50) / 64, "norm": 1 + (r - 50) / 256, "bias": (r - 50) / 128}[kind]
    return value.reshape(shape)


# Tensors of the two worked examples: name, shape slowest first, kind. A tensor's number is its place in the list.
def gpt2_tensors(hidden=4, ffn=16, layers=2, vocab=6, context=8):
    def pair(name, *shape):
        """A matrix and its bias, or a norm's weight and bias."""
        kind = "matrix" if len(shape) == 2 else "norm"
        return [(f"{name}.weight", shape, kind), (f"{name}.bias", shape[:1], "bias")]

    tensors = [("token_embd.weight", (vocab, hidden), "matrix"), ("position_embd.weight", (context, hidden), "matrix")]
    for n in range(layers):
        tensors += pair(f"blk.{n}.attn_norm", hidden)
        tensors += pair(f"blk.{n}.attn_qkv", 3 * hidden, hidden)
        tensors += pair(f"blk.{n}.attn_output", hidden, hidden)
        tensors += pair(f"blk.{n}.ffn_norm", hidden)
        tensors += pair(f"blk.{n}.ffn_up", ffn, hidden)
        tensors += pair(f"blk.{n}.ffn_down", hidden, ffn)
    return tensors + pair("output_norm", hidden)


def llama_tensors(hidden=8, q=8, kv=4, ffn=12, layers=2, vocab=7):
    def one(name, *shape):
        return [(f"{name}.weight", shape, "matrix" if len(shape) == 2 else "norm")]

    tensors = one("token_embd", vocab, hidden)
    for n in range(layers):
        tensors += one(f"blk.{n}.attn_norm", hidden)
        tensors += one(f"blk.{n}.attn_q", q, hidden)
        tensors += one(f"blk.{n}.attn_k", kv, hidden)
        tensors += one(f"blk.{n}.attn_v", kv, hidden)
        tensors += one(f"blk.{n}.attn_output", hidden, q)
        tensors += one(f"blk.{n}.ffn_norm", hidden)
        tensors += one(f"blk.{n}.ffn_gate", ffn, hidden)
        tensors += one(f"blk.{n}.ffn_up", ffn, hidden)
        tensors += one(f"blk.{n}.ffn_down", hidden, ffn)
    return tensors + one("output_norm", hidden) + one("output", vocab, hidden)


def layer_norm(x, weight, bias, eps):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rope(x, head_dim, base):
    """Rotates the adjacent pairs of each head of `x` [T, heads * head_dim]; row t is at position t."""
    t = len(x)
    pairs = x.reshape(t, -1, head_dim // 2, 2)
    angle = np.arange(t)[:, None] * base ** (-2 * np.arange(head_dim // 2) / head_dim)
    c, s = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    a, b = pairs[..., 0], pairs[..., 1]
    return np.stack([a * c - b * s, a * s + b * c], -1).reshape(t, -1)


def attention(q, k, v, heads, kv_heads):
    """Scores [T, heads, T], masked with -inf, and the heads' outputs side by side [T, heads * head_dim]."""
    t, head_dim = len(q), q.shape[1] // heads
    split = lambda x, n: np.repeat(x.reshape(t, n, head_dim), heads // n, 1)
    q, k, v = split(q, heads), split(k, kv_heads), split(v, kv_heads)
    scores = np.einsum("ihd,jhd->ihj", q, k) / math.sqrt(head_dim)
    future = np.arange(t)[None, :] > np.arange(t)[:, None]
    scores = np.where(future[:, None, :], -np.inf, scores)
    return scores, np.einsum("ihj,jhd->ihd", softmax(scores), v).reshape(t, -1)


def gpt2_forward(w, tokens, layers=2, heads=2, eps=1e-5):
    """Values of every checkpoint: {(name, layer or None): array}."""
    trace = {}
    x = w["token_embd.weight"][tokens] + w["position_embd.weight"][: len(tokens)]
    trace["embedding", None] = x
    for n in range(layers):
        p = lambda name: w[f"blk.{n}.{name}"]
        linear = lambda h, name: h @ p(name + ".weight").T + p(name + ".bias")
        h = layer_norm(x, p("attn_norm.weight"), p("attn_norm.bias"), eps)
        qkv = linear(h, "attn_qkv")
        q, k, v = np.split(qkv, 3, axis=1)
        scores, heads_out = attention(q, k, v, heads, heads)
        attn_out = linear(heads_out, "attn_output")
        x = x + attn_out
        f = layer_norm(x, p("ffn_norm.weight"), p("ffn_norm.bias"), eps)
        ffn_out = linear(gelu(linear(f, "ffn_up")), "ffn_down")
        x = x + ffn_out
        values = dict(attn_norm=h, q=q, k=k, v=v, k_cache=k, v_cache=v, scores=scores, attn_out=attn_out)
        trace |= {(name, n): value for name, value in (values | dict(ffn_out=ffn_out, block_out=x)).items()}
    x = layer_norm(x, w["output_norm.weight"], w["output_norm.bias"], eps)
    trace["logits", None] = x @ w["token_embd.weight"].T
    return trace


def llama_forward(w, tokens, layers=2, heads=2, kv_heads=1, base=10000.0, eps=1e-5):
    """As gpt2_forward."""
    trace = {}
    x = w["token_embd.weight"][tokens]
    trace["embedding", None] = x
    for n in range(layers):
        p = lambda name: w[f"blk.{n}.{name}.weight"]
        h = rms_norm(x, p("attn_norm"), eps)
        q, k, v = h @ p("attn_q").T, h @ p("attn_k").T, h @ p("attn_v").T
        head_dim = q.shape[1] // heads
        q_rope, k_rope = rope(q, head_dim, base), rope(k, head_dim, base)
        scores, heads_out = attention(q_rope, k_rope, v, heads, kv_heads)
        attn_out = heads_out @ p("attn_output").T
        x = x + attn_out
        f = rms_norm(x, p("ffn_norm"), eps)
        ffn_out = (silu(f @ p("ffn_gate").T) * (f @ p("ffn_up").T)) @ p("ffn_down").T
        x = x + ffn_out
        values = dict(attn_norm=h, q=q, k=k, v=v, q_rope=q_rope, k_rope=k_rope, k_cache=k_rope, v_cache=v)
        values |= dict(scores=scores, attn_out=attn_out, ffn_out=ffn_out, block_out=x)
        trace |= {(name, n): value for name, value in values.items()}
    trace["logits", None] = rms_norm(x, w["output_norm.weight"], eps) @ w["output.weight"].T
    return trace


def generate(forward, w, prompt, count):
    """The greedy tokens, and the trace of all positions that were computed."""
    tokens = list(prompt)
    for _ in range(count):
        logits = forward(w, tokens)["logits", None][-1]
        second, best = np.sort(logits)[-2:]
        if best - second < 0.05:
            raise SystemExit("the example's greedy token is too near a tie to show anything")
        tokens.append(int(np.argmax(logits)))
    return tokens[len(prompt):], forward(w, tokens[:-1])


# ---- tables

def number(x):
    return "-inf" if x == -math.inf else f"{x:.9g}"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def matrix_table(x, first=0):
    """[T, W], or [T, heads, T] with a column for the head."""
    if x.ndim == 2:
        rows = [[first + t] + [number(v) for v in row] for t, row in enumerate(x)]
        return table(["position", *map(str, range(x.shape[1]))], rows)
    rows = [[t, h] + [number(v) for v in row] for t, heads in enumerate(x) for h, row in enumerate(heads)]
    return table(["position", "head", *map(str, range(x.shape[2]))], rows)


def checkpoints(forward, tensors, prompt, count, prefix):
    """The tables of one worked example: every checkpoint of layer 0, and the residual stream of layer 1."""
    w = {name: worked_weights(kind, s, shape) for s, (name, shape, kind) in enumerate(tensors)}
    tokens, trace = generate(forward, w, prompt, count)
    ids = dict(attn_norm=1, q=2, k=2, v=2, q_rope=3, k_rope=3, k_cache=3, v_cache=3, scores=4, attn_out=5, ffn_out=6)
    ids |= dict(block_out=7, logits=8)
    made = {}
    sizes = [[s, name, " ".join(map(str, shape[::-1])), kind] for s, (name, shape, kind) in enumerate(tensors)]
    made[f"{prefix}-INIT-003 example"] = table(["number", "tensor", "dims", "kind"], sizes)
    shown = [tensors[i][0] for i in (0, 1, 3)]
    samples = [[name, *(number(v) for v in w[name].ravel()[:6])] for name in shown]
    width = max(map(len, samples))
    samples = [row + [""] * (width - len(row)) for row in samples]
    made[f"{prefix}-INIT-004 example"] = table(["tensor", *map(str, range(width - 1))], samples)
    made[f"{prefix}-EMB-002"] = matrix_table(trace["embedding", None])
    for (name, layer), value in trace.items():
        if name in ids and layer in (0, None):
            made[f"{prefix}-VAL-{ids[name]:03} {name}"] = matrix_table(value)
        elif name == "block_out":
            made[f"{prefix}-VAL-007 block_out_{layer}"] = matrix_table(value)
    first = len(prompt) - 1
    selected = trace["logits", None][first:]
    made[f"{prefix}-VAL-009 selected_logits"] = matrix_table(selected, first)
    argmax = [[first + i, int(np.argmax(row))] for i, row in enumerate(selected)]
    made[f"{prefix}-VAL-010 argmax"] = table(["position", "token"], argmax)
    made[f"{prefix}-VAL-011 probabilities"] = matrix_table(softmax(selected), first)
    shown = [" ".join(map(str, prompt)), " ".join(map(str, tokens))]
    made[f"{prefix}-VAL-012 tokens"] = table(["prompt", "tokens"], [shown])
    return made


def rows_of(names, *columns):
    return table(names, [[number(v) if isinstance(v, float) else v for v in row] for row in zip(*columns)])


def vector_table(names, *vectors):
    rows = [[name, *(number(float(v)) for v in vector)] for name, vector in zip(names, vectors)]
    return table(["vector", *map(str, range(len(vectors[0])))], rows)


def operations():
    """Small vectors for single operations. Inputs are exact in f32."""
    x = np.array([1.5, -2.25, 0.125, 3.0, -0.75, 0.5])
    weight = np.array([1.0, 0.5, -2.0, 1.25, 1.0, 0.75])
    bias = np.array([0.0, 0.25, -0.5, 1.0, 0.125, -1.0])
    points = np.array([-8.0, -3.0, -1.0, -0.5, -0.125, 0.0, 0.125, 0.5, 1.0, 3.0, 8.0])
    up = np.array([1.0, -2.0, 0.5, 4.0, -1.0, 3.0, 2.0, -0.25, 1.0, -1.5, 0.5])
    scores = np.array([0.5, 2.0, -1.0, 2.0, 0.0, -30.0])
    layer, rms = layer_norm(x, weight, bias, 1e-5), rms_norm(x, weight, 1e-5)
    floats = [list(map(float, column)) for column in (points, gelu(points), up, silu(points) * up)]
    made = {
        "GPT2-BLK-002": vector_table(["x", "weight", "bias", "out"], x, weight, bias, layer),
        "GPT2-FFN-002": rows_of(["x", "gelu"], floats[0], floats[1]),
        "GPT2-ATTN-005": vector_table(["scores", "weights"], scores, softmax(scores)),
        "LLAMA2-NORM-001": vector_table(["x", "weight", "out"], x, weight, rms),
        "LLAMA2-FFN-002": rows_of(["gate", "up", "out"], floats[0], floats[2], floats[3]),
    }
    rows = []
    for position in (0, 1, 2, 4095):
        head = np.array([1.0, 0.0, 0.5, -2.0, 3.0, 0.25, -1.0, 1.0])
        angle = position * 10000.0 ** (-2 * np.arange(4) / 8)
        a, b = head[0::2], head[1::2]
        out = np.stack([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], -1).ravel()
        rows.append([position] + [number(v) for v in out])
    made["LLAMA2-ROPE-002"] = table(["position", *map(str, range(8))], rows)
    power = {i: 10000.0 ** (2 * i / 128) for i in (0, 1, 16, 32, 63)}
    wavelengths = [[i, number(1 / p), number(2 * math.pi * p)] for i, p in power.items()]
    made["LLAMA2-ROPE-001"] = table(["pair", "frequency", "positions_a_turn"], wavelengths)
    return made


# ---- sampling: integers and the standard library, nothing of NumPy

def uniform(seed, index, position):
    c, k = [position, index, 0, 0], [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return (((c[1] << 32) | c[0]) >> 11) * 2.0**-53


def f32(x):
    return float(np.float32(x))


def choose(logits, seed, position, temperature, top_k, top_p, min_p):
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    weight = lambda i: math.exp((logits[i] - logits[order[0]]) / f32(temperature))
    order = order[: top_k or None]
    if top_p < 1:
        total, sums = sum(weight(i) for i in sorted(order)), 0.0
        for count, i in enumerate(order, 1):
            sums += weight(i)
            if sums >= f32(top_p) * total:
                order = order[:count]
                break
    left = sorted(i for i in order if weight(i) >= f32(min_p))
    target, sums = uniform(seed, 0, position) * sum(map(weight, left)), 0.0
    for i in left:
        sums += weight(i)
        if sums > target:
            return i
    raise ValueError("the weights do not reach the target")


def sampling():
    numbers = [(0, 0, 0), (42, 0, 1), (42, 3, 17), (0x0123456789ABCDEF, 0, 5), (2**64 - 1, 127, 4095)]
    made = {"SMP-8": table(["seed", "index", "position", "u"], [[*n, repr(uniform(*n))] for n in numbers])}
    logits = [f32(i * 37 % 50 / 10) for i in range(50)]
    rows = []
    for settings in [(42, 1, 0, 1, 0), (7, 0.5, 0, 1, 0), (7, 1, 10, 1, 0), (7, 1, 0, 0.5, 0), (7, 2, 20, 0.9, 0.1)]:
        tokens = [0]
        for _ in range(12):
            tokens.append(choose(logits, settings[0], len(tokens), *settings[1:]))
        rows.append([*settings, " ".join(map(str, tokens[1:]))])
    made["SMP-6"] = table(["seed", "temperature", "top_k", "top_p", "min_p", "tokens"], rows)
    five = [2, 1, 3, 0, 3]
    weights = [[t, " ".join(repr(math.exp((x - 3) / t)) for x in five)] for t in (1, 2, 0.5)]
    made["SMP-4"] = table(["temperature", "weights"], weights)
    return made


def all_tables():
    made = operations()
    gpt2 = checkpoints(gpt2_forward, gpt2_tensors(), [5, 4, 0], 3, "GPT2")
    llama = checkpoints(llama_forward, llama_tensors(), [5, 2, 6], 3, "LLAMA2")
    by_document = {GPT2: gpt2, LLAMA2: llama, SAMPLING: sampling()}
    for name, lines in made.items():
        by_document[GPT2 if name.startswith("GPT2") else LLAMA2][name] = lines
    return by_document


def with_tables(text, tables, document):
    """`text` with the first table below each line `**Validation NAME**` replaced."""
    for name, lines in tables.items():
        until_rows = r"(?:(?!\||#|\*\*Validation ).*\n)*"
        line = r"^\*\*Validation " + re.escape(name) + r"\*\*.*\n"
        place = re.compile(f"({line}{until_rows})((?:\\|.*\n)*)", re.M)
        if not place.search(text):
            raise SystemExit(f"{document}: there is no **Validation {name}**")
        text = place.sub(lambda found: found.group(1) + "\n".join(lines) + "\n", text, count=1)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    for document, tables in all_tables().items():
        path = SPECS / document
        if options.write or options.check:
            old = path.read_text(encoding="utf-8")
            new = with_tables(old, tables, document)
            if options.check and new != old:
                raise SystemExit(f"specs/{document} has other numbers than {sys.argv[0]} makes")
            path.write_text(new, encoding="utf-8")
        else:
            for name, lines in tables.items():
                print(f"{document}: {name}", *lines, "", sep="\n")


if __name__ == "__main__":
    main()
