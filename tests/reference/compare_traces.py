#!/usr/bin/env python3
"""How far two traces of one prompt are apart, tensor by tensor; `llorch-cpud compare` is the tool with all the checks.

    compare_traces.py OURS REFERENCE

|difference| <= tolerance * max |reference|, at the tolerance that the reference's index states. Rotated Q and K are
compared with the rotated ones as they are. Exit code 1 where a tolerance is passed.
"""

import sys

import numpy as np

from trace_files import read


def distance(ours, reference):
    """Largest difference, relative to the largest magnitude; infinities must be at the same places."""
    finite = np.isfinite(reference)
    if ours.shape != reference.shape or not np.array_equal(finite, np.isfinite(ours)):
        return np.inf
    difference = np.abs(ours[finite].astype(np.float64) - reference[finite])
    return difference.max() / max(np.abs(reference[finite]).max(), np.finfo(np.float32).tiny)


def differences(ours, reference):
    """`(name, layer, distance, tolerance)` of every tensor of both, in the reference's order."""
    (_, mine), (index, theirs) = ours, reference
    if set(mine) != set(theirs):
        raise SystemExit(f"tensors of one side alone: {sorted(map(str, set(mine) ^ set(theirs)))}")
    for entry in index["tensors"]:
        key = entry["name"], entry["layer"]
        tolerance = entry.get("tolerance", 0.0)
        if entry["name"] == "probabilities":
            # The checkpoint is about the softmax of given logits; whole runs differ as the logits do.
            tolerance = 2 * logit_tolerance(index, theirs)
        yield *key, distance(mine[key], theirs[key]), tolerance


def logit_tolerance(index, values):
    stated = next(entry["tolerance"] for entry in index["tensors"] if entry["name"] == "selected_logits")
    return stated * np.abs(values["selected_logits", None]).max()


def main():
    worst = {}
    failed = 0
    for name, layer, apart, tolerance in differences(read(sys.argv[1]), read(sys.argv[2])):
        failed += not apart <= tolerance
        ratio = apart / tolerance if tolerance else (np.inf if apart else 0.0)
        worst[name] = max(worst.get(name, (0.0,)), (ratio, apart, tolerance, layer), key=lambda row: row[0])
    for name, row in worst.items():
        if len(row) == 4:
            print(f"{name:16} layer {row[3]}: {row[1]:.2e} of the largest, {row[0]:.3f} of the tolerance {row[2]:.1e}")
    print(f"{failed} tensors are beyond their tolerance" if failed else "all within tolerance")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
