#!/usr/bin/env python3
"""Makes or checks tests/golden/*.json: logits and greedy tokens of the models that tests/it/golden.rs builds.

    LLORCH_REFERENCE_MODELS=DIR cargo test --test it write_reference_models -- --ignored
    make_golden.py DIR                 # rewrites the NumPy values, keeps llama.cpp's where the model is unchanged
    make_golden.py DIR --llama-cpp     # rewrites both
    make_golden.py DIR --check         # computes the NumPy values again and compares; writes nothing
"""

import argparse
import hashlib
import json
import pathlib
import sys

import numpy as np

import forward_f64

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
GREEDY_TOKENS = 24
PROMPT_TOKENS = 12
# Longer than two tiles of attention.
LONG_PROMPTS = {"gqa7_untied_f32": 70}
# Committed values carry eight digits; another BLAS sums in another order.
CHECK_TOLERANCE = 1e-6


def prompt_of(name, vocab):
    """Token ids spread over the vocabulary, BOS (1) first."""
    count = LONG_PROMPTS.get(name, PROMPT_TOKENS)
    return [1] + [(17 + 53 * i * i + 7 * i) % vocab for i in range(1, count)]


def numpy_values(path, name):
    """Everything in a golden file that NumPy computes. Rows of logits are positions of the prompt."""
    model = forward_f64.Model(path)
    prompt = prompt_of(name, model.vocab)
    values = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "prompt": prompt,
        "greedy": forward_f64.greedy(model, prompt, GREEDY_TOKENS),
        "logits": forward_f64.forward(model, prompt),
        "logits_f16_kv": forward_f64.forward(model, prompt, kv="f16"),
    }
    if any(kind in forward_f64.ACTIVATION_BLOCKS for kind in model.types.values()):
        values["logits_int8"] = forward_f64.forward(model, prompt, int8_activations=True)
    return values


def llama_cpp_values(path, values):
    """llama.cpp's greedy tokens (F32 KV, no flash attention) and its distance from NumPy, of max |logit|."""
    import llama_cpp
    import llama_cpp_reference

    logits, greedy = llama_cpp_reference.run(str(path), values["prompt"], GREEDY_TOKENS)
    reference = values["logits"]
    distance = np.abs(logits - reference).max() / np.abs(reference).max()
    version = f"llama-cpp-python {llama_cpp.__version__}"
    return {"version": version, "greedy": greedy, "distance": float(f"{distance:.2g}")}


def dump(values):
    """JSON with one line a row, eight digits a number."""
    lines = []
    for key, value in values.items():
        if isinstance(value, np.ndarray):
            rows = ["  [" + ",".join(f"{x:.8g}" for x in row) + "]" for row in value]
            lines.append(f'"{key}": [\n' + ",\n".join(rows) + "\n]")
        else:
            lines.append(f'"{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def differences(name, old, new):
    """One line for each committed value that the computation does not give again."""
    for key, value in new.items():
        if key not in old:
            yield f"{name}: {key} is missing"
        elif isinstance(value, np.ndarray):
            distance = np.abs(np.array(old[key]) - value).max() / np.abs(value).max()
            if not distance <= CHECK_TOLERANCE:
                yield f"{name}: {key} differs by {distance:.2g} of its largest value"
        elif old[key] != value:
            yield f"{name}: {key} differs"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=pathlib.Path, help="folder with the .gguf files of write_reference_models")
    parser.add_argument("--llama-cpp", action="store_true", help="ask llama.cpp too (needs llama-cpp-python)")
    parser.add_argument("--check", action="store_true", help="compare with the committed files and write nothing")
    args = parser.parse_args()
    paths = sorted(args.models.glob("*.gguf"))
    problems = [] if paths else [f"no .gguf files in {args.models}"]
    if {p.stem for p in paths} != {p.stem for p in GOLDEN.glob("*.json")} and args.check:
        problems.append("the models and the golden files are not the same set")
    for path in paths:
        golden = GOLDEN / f"{path.stem}.json"
        old = json.loads(golden.read_text()) if golden.exists() else {}
        new = numpy_values(path, path.stem)
        if args.check:
            problems += differences(path.stem, old, new)
            continue
        if args.llama_cpp:
            new["llama_cpp"] = llama_cpp_values(path, new)
        elif "llama_cpp" in old and old["sha256"] == new["sha256"] and old["prompt"] == new["prompt"]:
            new["llama_cpp"] = old["llama_cpp"]
        golden.write_text(dump(new))
        print(f"wrote {golden.name} ({len(new['prompt'])} positions)")
    if problems:
        sys.exit("\n".join(problems))
    if args.check:
        print(f"{len(paths)} golden files agree with NumPy")


if __name__ == "__main__":
    main()
