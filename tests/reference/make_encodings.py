#!/usr/bin/env python3
"""Makes or checks tests/blocks/encode_*.txt: weights and their blocks in the types that leave an encoder no choice.

    make_encodings.py           # writes the files
    make_encodings.py --check   # compares with the committed files and writes nothing

Each line is 32 weights as the bytes of little-endian f32 in hexadecimal, a blank, and the bytes that the `gguf` package
of the llama.cpp project makes of them. The weights: of several sizes, with ties, alike, zeros of both signs, and one
that is far larger than the others.
"""

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from make_blocks import BLOCKS, write_or_check

TYPES = ["F16", "BF16", "Q8_0", "Q4_0"]


def weights():
    """`[rows, 32]` of f32."""
    random = np.random.Generator(np.random.PCG64(20))
    normal = random.normal(size=(12, 32)) * 10.0 ** np.array([[-2], [-2], [-2], [-1], [0], [1], [3], [4], [-4], [-6],
                                                              [-7], [-8]])
    rows = list(normal.clip(-60000, 60000))
    # The codes of Q8_0 are 127 and halves; those of Q4_0 -8 and halves.
    rows.append(np.where(np.arange(32) == 5, 127.0, np.arange(32) - 15.5))
    rows.append(np.where(np.arange(32) == 5, -8.0, np.arange(32) / 2 - 8.0))
    # Halfway between two numbers of f16 and of bf16.
    rows.append(1 + np.arange(32) * 2.0**-11)
    rows.append(-1 - np.arange(32) * 2.0**-8)
    rows += [np.zeros(32), np.full(32, -0.0), np.full(32, 0.3), np.full(32, -0.3)]
    rows += [np.where(np.arange(32) == 17, 900.0, normal[0]), np.where(np.arange(32) == 17, -900.0, normal[0])]
    # Equal magnitudes of both signs: the first one counts.
    rows += [np.resize([0.7, -0.7, 0.1], 32), np.resize([-0.7, 0.7, 0.1], 32)]
    # The f16 of each is subnormal or 0.
    rows.append(random.normal(size=32) * 2.0**-24)
    return np.array(rows).astype("<f4")


def text_of(name):
    lines = []
    for row in weights():
        block = quantize(row.reshape(1, -1), GGMLQuantizationType[name])
        lines.append(f"{row.tobytes().hex()} {block.tobytes().hex()}\n")
    return "".join(lines)


if __name__ == "__main__":
    write_or_check(__doc__, TYPES, lambda name: BLOCKS / f"encode_{name.lower()}.txt", text_of, "encodes")
