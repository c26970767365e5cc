"""The trace layout that `llorch-cpud trace` writes: a folder of `.npy` files and `index.json`."""

import json
import pathlib

import numpy as np

# Checkpoint of each value, and its tolerance at layer 0 relative to the largest magnitude; None: equality.
CHECKPOINTS = {
    "attn_norm": (1, 1e-5),
    **dict.fromkeys(("q", "k", "v"), (2, 1e-4)),
    **dict.fromkeys(("q_norm", "k_norm", "q_rope", "k_rope", "k_cache", "v_cache"), (3, 1e-4)),
    "scores": (4, 1e-4),
    "attn_out": (5, 1e-4),
    "ffn_out": (6, 1e-4),
    "block_out": (7, 1e-4),
    "logits": (8, 1e-3),
    "selected_logits": (9, 1e-3),
    "argmax": (10, None),
    "probabilities": (11, 1e-6),
    "tokens": (12, None),
}


class Trace:
    """Values by name and layer, of a prompt and the tokens generated after it."""

    def __init__(self, producer, model, prompt, tokens):
        """`model` is a `gguf_model.Model`."""
        self.prompt, self.tokens = list(prompt), list(tokens)
        kinds = sorted({kind.lower() for name, kind in model.types.items() if is_matrix(name)})
        self.layers = model.layers
        self.index = {
            "format": 1,
            "producer": producer,
            "architecture": model.arch,
            "model": model.name,
            "weights": "+".join(kinds),
            "kv_type": "f32",
            "prompt_tokens": self.prompt,
            "tokens": self.tokens,
            "heads": model.heads,
            "kv_heads": model.kv_heads,
            "head_dim": model.head_dim,
            "rope": None,
        }
        self.values = {}

    def watch(self, name, layer, value):
        """Takes a value; of one that comes twice the later one counts."""
        self.values[name, layer] = np.array(value)

    def finish(self, logits):
        """Takes the logits `[T, V]` and adds what follows from them."""
        selected = np.asarray(logits, dtype=np.float64)[len(self.prompt) - 1 :]
        shifted = np.exp(selected - selected.max(axis=1, keepdims=True))
        self.watch("logits", None, logits)
        self.watch("selected_logits", None, selected)
        self.watch("argmax", None, selected.argmax(axis=1).astype(np.int32))
        self.watch("probabilities", None, shifted / shifted.sum(axis=1, keepdims=True))
        self.watch("tokens", None, np.array(self.tokens, dtype=np.int32))

    def write(self, folder, widened=None):
        """Writes the folder. `widened(name, layer)`: what a tolerance grows by in this trace, and why, or None."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        entries = []
        order = list(CHECKPOINTS)
        for name, layer in sorted(self.values, key=lambda key: (-1 if key[1] is None else key[1], order.index(key[0]))):
            value = self.values[name, layer]
            dtype = "i32" if value.dtype == np.int32 else "f32"
            file = f"{name}.npy" if layer is None else f"{name}.{layer}.npy"
            np.save(folder / file, np.ascontiguousarray(value, dtype="<i4" if dtype == "i32" else "<f4"))
            checkpoint, tolerance = CHECKPOINTS[name]
            entry = {"file": file, "name": name, "checkpoint": checkpoint, "layer": layer}
            entry |= {"shape": list(value.shape), "dtype": dtype}
            if tolerance is not None:
                entry["tolerance"] = tolerance_of(name, layer)
            wider = widened(name, layer) if widened and tolerance is not None else None
            if wider:
                entry["tolerance"] += wider[0]
                entry["tolerance_reason"] = wider[1]
            entries.append(entry)
        head = ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in self.index.items())
        body = ",\n".join("    " + json.dumps(entry) for entry in entries)
        (folder / "index.json").write_text("{\n" + head + ',\n  "tensors": [\n' + body + "\n  ]\n}\n")


def is_matrix(name):
    """Whether a tensor's type says something of the file: not norms, biases and what stays F32 in every file."""
    if not name.endswith(".weight") or "norm" in name or "rope_f" in name:
        return False
    return "position_embd" not in name and "ffn_gate_inp" not in name


def tolerance_of(name, layer):
    """Errors add up like independent ones from layer to layer."""
    return CHECKPOINTS[name][1] * (1 + (layer or 0)) ** 0.5


def read(folder):
    """The index of a trace and its values by name and layer."""
    folder = pathlib.Path(folder)
    index = json.loads((folder / "index.json").read_text())
    values = {(entry["name"], entry["layer"]): np.load(folder / entry["file"]) for entry in index["tensors"]}
    return index, values
