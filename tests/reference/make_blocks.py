#!/usr/bin/env python3
"""Makes or checks tests/blocks/*.txt: blocks of every quantised type and the weights they stand for.

    make_blocks.py           # writes the files
    make_blocks.py --check   # compares with the committed files and writes nothing

Each line is one block in hexadecimal, a blank, and its weights as the bytes of little-endian f32 in hexadecimal, as the
`gguf` package of the llama.cpp project decodes them. Blocks are random bytes: every pattern of codes and scales is a
valid block. Scales whose f16 is NaN are made smaller, since a NaN has no one pattern of bits.
"""

import argparse
import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

BLOCKS = pathlib.Path(__file__).resolve().parent.parent / "blocks"
# Type: where its f16 numbers stand in the block.
TYPES = {
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "IQ4_NL": (0,),
    "MXFP4": (),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_XS": (0,),
}
# Largest magnitudes, a subnormal, zeros of both signs.
EXTREME_SCALES = (0x7BFF, 0xFBFF, 0x0001, 0x8000, 0x0000)


def blocks_of(name):
    """Blocks of random bytes, some with an extreme scale, and two with all bits alike."""
    length, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    random = np.random.Generator(np.random.PCG64(sum(name.encode())))
    rows = random.integers(0, 256, ((12 if length == 32 else 6), size), dtype=np.uint8)
    rows[0], rows[1] = 0, 0xFF
    for number, row in enumerate(rows):
        for at in TYPES[name]:
            scale = int.from_bytes(row[at : at + 2].tobytes(), "little")
            if number in (2, 3):
                scale = EXTREME_SCALES[int(random.integers(len(EXTREME_SCALES)))]
            if scale & 0x7C00 == 0x7C00:
                scale &= ~0x0400
            row[at : at + 2] = list(scale.to_bytes(2, "little"))
        if name == "MXFP4" and number in (2, 3, 4, 5):
            row[0] = (0, 1, 2, 254)[number - 2]
    return rows


def text_of(name):
    kind = GGMLQuantizationType[name]
    lines = []
    for block in blocks_of(name):
        with np.errstate(over="ignore", invalid="ignore"):
            weights = dequantize(block.reshape(1, -1), kind).astype("<f4")
        if np.isnan(weights).any():
            raise SystemExit(f"{name}: a NaN among the weights")
        lines.append(f"{block.tobytes().hex()} {weights.tobytes().hex()}\n")
    return "".join(lines)


def write_or_check(description, types, path_of, text_of, what):
    """The command line of a script that makes a file for each type: writes them, or compares with --check."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed files and write nothing")
    args = parser.parse_args()
    problems = []
    for name in types:
        path, text = path_of(name), text_of(name)
        if not args.check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            problems.append(f"{path.name}: not what gguf {what}")
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(types)} types {'agree' if args.check else 'written'}")


if __name__ == "__main__":
    write_or_check(__doc__, TYPES, lambda name: BLOCKS / f"{name.lower()}.txt", text_of, "decodes")
