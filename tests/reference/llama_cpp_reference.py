#!/usr/bin/env python3
"""Logits at every position and greedy tokens from llama.cpp, through the llama-cpp-python package.

    pip install llama-cpp-python==0.3.36        # compiles llama.cpp, about 12 minutes on two cores
    llama_cpp_reference.py MODEL.gguf --tokens 1,15,27 --greedy 20 --out logits.npy

An existing build of the same llama.cpp serves too: unpack the package's sdist, put it on PYTHONPATH and name the
folder of libllama.so in LLAMA_CPP_LIB_PATH. The KV cache is F32 unless `--kv f16`; flash attention is off.

(The file is not called llama_cpp.py because that would hide the package of that name.)
"""

import argparse
import ctypes

import llama_cpp as lib
import numpy as np

KV_TYPES = {"f32": 0, "f16": 1}  # ggml_type


class Session:
    """One loaded model with one empty context of `length` positions.

    `callback(node, ask, data)`, if given, is called before (`ask`) and after each node of a graph; it returns True.
    """

    def __init__(self, path, length, kv="f32", callback=None):
        lib.llama_backend_init()
        self._quiet = lib.llama_log_callback(lambda level, text, data: None)
        lib.llama_log_set(self._quiet, None)
        model_params = lib.llama_model_default_params()
        # Repacked weights use other kernels, with other roundings; the plain ones are the reference.
        model_params.use_extra_bufts = False
        self.model = lib.llama_model_load_from_file(path.encode(), model_params)
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp refuses this file")
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = length
        params.n_threads = params.n_threads_batch = 1
        params.swa_full = True
        params.type_k = params.type_v = KV_TYPES[kv]
        params.flash_attn_type = 0
        if callback:
            self._callback = lib.ggml_backend_sched_eval_callback(callback)
            params.cb_eval = self._callback
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"{path}: llama.cpp refuses a context of {length}")
        self.vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.position = 0

    def decode(self, tokens):
        """Appends `tokens` and returns their logits `[len(tokens), V]`, f32."""
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, self.position + i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
        if lib.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama_decode failed")
        rows = [np.ctypeslib.as_array(self._row(i), (self.vocab,)).copy() for i in range(len(tokens))]
        lib.llama_batch_free(batch)
        self.position += len(tokens)
        return np.stack(rows)

    def _row(self, index):
        return ctypes.cast(lib.llama_get_logits_ith(self.context, index), ctypes.POINTER(ctypes.c_float))

    def close(self):
        lib.llama_free(self.context)
        lib.llama_model_free(self.model)


def run(path, tokens, greedy=0, kv="f32"):
    """Logits `[len(tokens), V]` of the prompt, and `greedy` tokens that argmax appends."""
    session = Session(path, max(256, len(tokens) + greedy), kv)
    logits = session.decode(tokens)
    row, chosen = logits[-1], []
    for _ in range(greedy):
        chosen.append(int(np.argmax(row)))
        if len(chosen) < greedy:
            row = session.decode(chosen[-1:])[-1]
    session.close()
    return logits, chosen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", required=True, help="prompt token ids, comma separated")
    parser.add_argument("--greedy", type=int, default=0, metavar="N")
    parser.add_argument("--kv", choices=sorted(KV_TYPES), default="f32")
    parser.add_argument("--out", help="write the logits of every position to this .npy")
    args = parser.parse_args()
    logits, chosen = run(args.model, [int(t) for t in args.tokens.split(",")], args.greedy, args.kv)
    print(",".join(map(str, chosen if args.greedy else logits.argmax(axis=1))))
    if args.out:
        np.save(args.out, logits)


if __name__ == "__main__":
    main()
