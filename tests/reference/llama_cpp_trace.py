#!/usr/bin/env python3
"""The checkpoints of a run as llama.cpp computes them, through the llama-cpp-python package.

    llama_cpp_trace.py MODEL.gguf --prompt-tokens 1,2,3 --max-tokens 64 --out DIR

F32 KV cache, no flash attention, no repacked weights. Tokens are generated one by one; then all positions are computed
again in one batch in which every node of the graph is shown to `Watcher`. It recognises values by operation and by
the weights that go in; by label only where no weight does (rotation, attention, the end of a block).
How to install the package: `llama_cpp_reference.py`.
"""

import ctypes
import re

import llama_cpp
import numpy as np

from gguf_model import Model
from llama_cpp_reference import Session
from numpy_trace import arguments
from trace_files import Trace

# Enough of `struct ggml_tensor` (ggml.h) for what is read here.
MAX_SRC = 10
F32 = 0
BLOCK_WEIGHT = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
LABEL = re.compile(r"(\w+)-(\d+)")
# Weights and biases whose product or sum is a value of the trace.
LINEAR = {
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_qkv": "qkv",
    "attn_output": "attn_out",
    "ffn_down": "ffn_out",
}
NORMS = {"attn_q_norm": "q_norm", "attn_k_norm": "k_norm"}


class Tensor(ctypes.Structure):
    pass


Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * MAX_SRC),
    ("view_src", ctypes.POINTER(Tensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


def array(tensor):
    """A copy of an F32 tensor as an array, slowest dimension first."""
    if tensor.type != F32:
        raise SystemExit(f"llama.cpp's {tensor.name.decode()} is not F32")
    ne, nb = list(tensor.ne)[::-1], list(tensor.nb)[::-1]
    last = sum((n - 1) * stride for n, stride in zip(ne, nb)) + 4
    raw = np.ctypeslib.as_array(ctypes.cast(tensor.data, ctypes.POINTER(ctypes.c_uint8)), (last,))
    return np.lib.stride_tricks.as_strided(raw[:4].view("<f4"), ne, nb).copy()


def address(pointer):
    return ctypes.cast(pointer, ctypes.c_void_p).value


class Watcher:
    """Finds the values of the trace among the nodes of a graph that computes `positions` positions at once."""

    def __init__(self, model, positions, watch):
        self.model, self.positions, self.watch = model, positions, watch
        self.op_name = llama_cpp.llama_cpp._lib.ggml_op_name
        self.op_name.restype = ctypes.c_char_p
        self.on = False
        self.error = None
        # Nodes whose bias may follow, and the sums of experts so far, by address: what they are a value of.
        self.pending, self.expert_products, self.expert_sums = {}, {}, {}
        # Attention's products, by address, until the softmax says how they are scaled.
        self.products = {}

    def __call__(self, node, ask, _):
        if not self.on or ask:
            return True
        try:
            self.see(ctypes.cast(node, ctypes.POINTER(Tensor)).contents, node)
        except BaseException as error:  # It may not leave through C.
            self.error = self.error or error
        return True

    def see(self, node, at):
        op = self.op_name(node.op).decode()
        sources = [pointer.contents for pointer in node.src if pointer]
        named = [BLOCK_WEIGHT.fullmatch(source.name.decode()) for source in sources]
        label = LABEL.fullmatch(node.name.decode())
        if op == "MUL_MAT" and named[0] and named[0][2] in LINEAR:
            layer, part = int(named[0][1]), named[0][2]
            if part in ("attn_q", "attn_qkv") and self.model.has_attn_norm(layer):
                self.rows("attn_norm", layer, sources[1])
            self.linear(LINEAR[part], layer, node, at)
        elif op == "ADD" and address(node.src[0]) in self.pending and len(named) > 1 and named[1]:
            self.linear(*self.pending[address(node.src[0])], node, at)
        elif op == "MUL" and len(named) > 1 and named[1] and named[1][2] in NORMS:
            self.rows(NORMS[named[1][2]], int(named[1][1]), node)
        elif op in ("MUL_MAT_ID", "MUL", "ADD"):
            self.experts(op, named, node, at)
        if label:
            self.labelled(op, label[1], int(label[2]), node, at, sources)

    def rows(self, name, layer, node):
        self.watch(name, layer, array(node).reshape(self.positions, -1))

    def linear(self, name, layer, node, at):
        self.pending[at] = (name, layer)
        if name != "qkv":
            return self.rows(name, layer, node)
        q, k = self.model.heads * self.model.head_dim, self.model.kv_heads * self.model.head_dim
        for part, value in zip("qkv", np.split(array(node).reshape(self.positions, -1), [q, q + k], axis=1)):
            self.watch(part, layer, value)

    def experts(self, op, named, node, at):
        """The down products of all chosen experts, times their weights, then added one by one."""
        first = address(node.src[0])
        if op == "MUL_MAT_ID":
            if named[0] and named[0][2] == "ffn_down_exps":
                self.expert_products[at] = int(named[0][1])
        elif op == "MUL" and first in self.expert_products:
            self.expert_sums[at] = self.expert_products[first]
        elif op == "ADD":
            of = first if first in self.expert_sums else address(node.src[0].contents.view_src)
            if of in self.expert_sums and address(node.src[1].contents.view_src) is not None:
                self.expert_sums[at] = self.expert_sums[of]
                self.rows("ffn_out", self.expert_sums[of], node)

    def labelled(self, op, label, layer, node, at, sources):
        if op == "ROPE" and label in ("Qcur", "Kcur"):
            self.rows("q_rope" if label == "Qcur" else "k_rope", layer, node)
        elif label in ("kq", "kq_scaled_2"):
            self.products[at] = array(node)
            if label == "kq":
                keys = array(sources[0])[0, :, : self.positions]
                self.watch("k_cache", layer, keys.transpose(1, 0, 2).reshape(self.positions, -1))
        elif label == "kq_soft_max":
            scale = np.frombuffer(bytes(node.op_params), "<f4")[0]
            products = self.products.pop(address(node.src[0]))[0]
            mask = array(sources[1])[0, 0, : self.positions]
            scores = (products * scale + mask)[:, :, : self.positions]
            self.watch("scores", layer, scores.transpose(1, 0, 2))
        elif label == "kqv":
            values = array(sources[0])[0, :, :, : self.positions]
            self.watch("v_cache", layer, values.transpose(2, 0, 1).reshape(self.positions, -1))
        elif label == "l_out":
            self.rows("block_out", layer, node)


class Sizes:
    """What the watcher asks of a file."""

    def __init__(self, model):
        self.heads, self.kv_heads, self.head_dim = model.heads, model.kv_heads, model.head_dim
        self._tensors = set(model.tensors)

    def has_attn_norm(self, layer):
        return f"blk.{layer}.attn_norm.weight" in self._tensors


def gelu_table(model):
    """How a trace's tolerances grow where llama.cpp takes GELU from f16 to f16: two roundings to 11 bits for each GELU
    passed, in the form of specs/numerics-bounds.md, 5 epsilon sqrt(n) with epsilon = 2^-11 / sqrt(3)."""
    if not model.kind.gelu:
        return None

    def widened(name, layer):
        passed = model.layers if layer is None else layer + (name in ("ffn_out", "block_out"))
        reason = "llama.cpp rounds GELU's input and output to f16"
        if passed == 0 or name == "probabilities":
            return None
        return 5 * 2.0**-11 / 3**0.5 * (2 * passed) ** 0.5, reason

    return widened


def trace(path, model, prompt, count, context):
    """The trace of `prompt` and `count` tokens chosen by argmax, in a session of `context` positions."""
    step = Session(path, context)
    row, tokens = step.decode(prompt)[-1], []
    while len(tokens) < count:
        tokens.append(int(np.argmax(row)))
        if len(tokens) < count:
            row = step.decode(tokens[-1:])[-1]
    step.close()
    inputs = (prompt + tokens)[:-1]
    result = Trace(f"llama.cpp of llama-cpp-python {llama_cpp.__version__}", model, prompt, tokens)
    watcher = Watcher(Sizes(model), len(inputs), result.watch)
    whole = Session(path, context, callback=watcher)
    watcher.on = True
    logits = whole.decode(inputs)
    whole.close()
    if watcher.error:
        raise watcher.error
    result.finish(logits)
    return result


def main():
    args = arguments(__doc__).parse_args()
    prompt = [int(t) for t in args.prompt_tokens.split(",")]
    model = Model(args.model)
    result = trace(args.model, model, prompt, args.max_tokens, args.context)
    result.write(args.out, gelu_table(model))
    print(",".join(map(str, result.tokens)))


if __name__ == "__main__":
    main()
