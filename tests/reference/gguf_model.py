"""A GGUF file as the references see it: sizes, constants and float64 weights of any architecture that we run.

What an architecture is made of is read from its tensors where they say it (a bias, a norm, a gate is there or not).
The rest is in `ARCHITECTURES`. Facts: the papers of the models and llama.cpp's `src/models/*.cpp`.
"""

import dataclasses

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

FLOAT_TYPES = ("F32", "F16", "BF16")
# Integer types, and over how many activations our engine takes one scale for them.
ACTIVATION_BLOCKS = {
    **dict.fromkeys(("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4"), 32),
    **dict.fromkeys(("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"), 256),
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What the tensors of a file do not say."""

    # Which dimensions of a head rotate together: (2i, 2i + 1), or i and i + half of the rotated ones. None: none do.
    pairing: str | None = "halves"
    layer_norm: bool = False
    # GELU (tanh form) in place of SiLU.
    gelu: bool = False
    # Embeddings times the root of their width.
    scaled_embedding: bool = False
    # Every n-th layer is global, the others see a window; 0: the architecture has no windows.
    window_pattern: int = 0
    # Window and soft caps where the file has no key.
    window: int = 0
    score_cap: float = 0.0
    logit_cap: float = 0.0
    # Number of layers of the one size whose queries are scaled by hidden / heads and not by the head size.
    wide_query_layers: int = 0


GEMMA = Architecture(gelu=True, scaled_embedding=True)
ARCHITECTURES = {
    "llama": Architecture(pairing="adjacent"),
    "granite": Architecture(pairing="adjacent"),
    "gpt2": Architecture(pairing=None, layer_norm=True, gelu=True),
    "qwen2": Architecture(),
    "qwen3": Architecture(),
    "qwen3moe": Architecture(),
    "phi3": Architecture(),
    "gemma": GEMMA,
    "gemma2": dataclasses.replace(
        GEMMA, window_pattern=2, window=4096, score_cap=50.0, logit_cap=30.0, wide_query_layers=46
    ),
    "gemma3": dataclasses.replace(GEMMA, window_pattern=6, wide_query_layers=62),
    "stablelm": Architecture(layer_norm=True),
    "olmo2": Architecture(window_pattern=4),
    "starcoder2": Architecture(layer_norm=True, gelu=True),
}


class Model:
    """Sizes and weights of one file. Matrices are float64 `[N, K]`: N output features, K input features."""

    def __init__(self, path):
        reader = GGUFReader(path)
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        self.arch = self.fields["general.architecture"]
        if self.arch not in ARCHITECTURES:
            raise SystemExit(f"{path}: architecture {self.arch} is not one of {', '.join(ARCHITECTURES)}")
        self.kind = ARCHITECTURES[self.arch]
        self.name = self.fields.get("general.name", self.arch)
        self._read_sizes()
        self._read_positions()
        self.tensors, self.types = {}, {}
        for t in reader.tensors:
            kind = GGMLQuantizationType(t.tensor_type)
            if kind.name not in FLOAT_TYPES and kind.name not in ACTIVATION_BLOCKS:
                raise SystemExit(f"{path}: tensor {t.name}: type {kind.name} is not handled")
            # Without rounding, but for the types with minimums, which round once to f32.
            self.tensors[t.name] = np.asarray(dequantize(t.data, kind), dtype=np.float64)
            self.types[t.name] = kind.name
        self.vocab = len(self.tensors["token_embd.weight"])
        self.head = "output.weight" if "output.weight" in self.tensors else "token_embd.weight"

    def _read_sizes(self):
        self.hidden = self.key("embedding_length")
        self.layers = self.key("block_count")
        self.context = self.key("context_length")
        self.heads = self.key("attention.head_count")
        self.kv_heads = self.key("attention.head_count_kv", self.heads)
        self.head_dim = self.key("attention.key_length", self.hidden // self.heads)
        self.value_dim = self.key("attention.value_length", self.head_dim)
        self.experts_used = self.key("expert_used_count", 0)
        eps = "layer_norm_epsilon" if self.kind.layer_norm else "layer_norm_rms_epsilon"
        self.eps = self.key("attention." + eps)
        wide = self.layers == self.kind.wide_query_layers
        scale = 1.0 / np.sqrt(self.hidden // self.heads if wide else self.head_dim)
        granite = self.arch == "granite"
        self.score_scale = (granite and self.key("attention.scale", 0.0)) or scale
        self.residual_scale = (granite and self.key("residual_scale", 0.0)) or 1.0
        self.embedding_scale = (granite and self.key("embedding_scale", 0.0)) or 1.0
        self.logit_divisor = self.key("logit_scale") if granite else 1.0
        if self.kind.scaled_embedding:
            self.embedding_scale = np.sqrt(self.hidden)
        capped = self.arch in ("gemma2", "gemma3")
        self.score_cap = self.key("attn_logit_softcapping", self.kind.score_cap) if self.arch == "gemma2" else 0.0
        self.logit_cap = self.key("final_logit_softcapping", self.kind.logit_cap) if capped else 0.0

    def _read_positions(self):
        self.rotated = self.key("rope.dimension_count", self.head_dim)
        self.freq_base = self.key("rope.freq_base", 10000.0)
        self.scaling = self.key("rope.scaling.type", "linear")
        factor = self.key("rope.scaling.factor", 0.0) or 1.0
        self.scaling_factor = 1.0 if self.scaling == "none" else factor
        self.original_context = self.key("rope.scaling.original_context_length", self.context)
        self.magnitude = self.key("rope.scaling.attn_factor", 1.0)
        self.rotates = self.kind.pairing is not None
        if self.arch == "granite" and not self.key("rope.scaling.finetuned", True):
            self.rotates = False
        self.window = self.key("attention.sliding_window", self.kind.window) if self.kind.window_pattern else 0
        self.local_layers = set()
        if self.window:
            pattern = self.key("attention.sliding_window_pattern", self.kind.window_pattern)
            if isinstance(pattern, list):
                self.local_layers = {layer for layer, local in enumerate(pattern) if local}
            else:
                local = [pattern == 0 or layer % pattern < pattern - 1 for layer in range(self.layers)]
                self.local_layers = {layer for layer in range(self.layers) if local[layer]}

    def key(self, name, default=None):
        """The value of a key below the architecture's prefix."""
        value = self.fields.get(f"{self.arch}.{name}", default)
        if value is None:
            raise SystemExit(f"key {self.arch}.{name} is missing")
        return value

    def rotation(self, layer, context):
        """Frequencies `[rotated / 2]` (radians a position) of a layer and the factor of cosines and sines.

        `context` is the size of the session: Phi-3 chooses its divisors by it.
        """
        base, factor, scaling, magnitude = self.freq_base, self.scaling_factor, self.scaling, self.magnitude
        if layer in self.local_layers:
            if self.arch == "gemma2":
                base = self.key("rope.freq_base_swa", base)
            elif self.arch == "gemma3":
                base, factor, scaling = self.key("rope.freq_base_swa", 10000.0), 1.0, "none"
            else:
                factor, scaling, magnitude = 1.0, "none", 1.0
        pairs = np.arange(self.rotated // 2)
        frequencies = np.float64(base) ** (-2.0 * pairs / self.rotated) / self._divisors(context)
        if scaling == "yarn":
            kept = self._kept_by_yarn(base)
            return frequencies * (kept + (1.0 - kept) / factor), magnitude * (1.0 + 0.1 * np.log(max(factor, 1.0)))
        return frequencies / factor, magnitude

    def _divisors(self, context):
        name = "rope_freqs.weight"
        if name not in self.tensors:
            long = context > self.original_context
            name = "rope_factors_long.weight" if long else "rope_factors_short.weight"
        return self.tensors[name][: self.rotated // 2] if name in self.tensors else 1.0

    def _kept_by_yarn(self, base):
        """How much of each frequency YaRN leaves as it is: all of those that turn often, nothing of the slow ones.

        Peng et al. 2023, section 3.2, with its alpha = 1 and beta = 32 turns within the original context.
        """

        def pair_of(turns):
            return self.rotated * np.log(self.original_context / (2 * np.pi * turns)) / (2 * np.log(base))

        low = max(0.0, np.floor(pair_of(32.0)))
        high = min(self.rotated - 1.0, np.ceil(pair_of(1.0)))
        ramp = (np.arange(self.rotated // 2) - low) / max(0.001, high - low)
        return 1.0 - np.clip(ramp, 0.0, 1.0)
