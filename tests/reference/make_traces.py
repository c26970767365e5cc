#!/usr/bin/env python3
"""Makes or checks tests/golden/traces: checkpoints and greedy tokens of a small model of every architecture.

    LLORCH_TRACE_MODELS=DIR cargo test --test it write_trace_models -- --ignored
    make_traces.py DIR                 # rewrites what NumPy computes, keeps llama.cpp's where the model is unchanged
    make_traces.py DIR --llama-cpp     # asks llama.cpp too
    make_traces.py DIR --tinygrad      # asks tinygrad too about gpt2
    make_traces.py DIR --check         # computes NumPy's values again and compares; writes nothing

NAME.json is the index of a trace in float64 arithmetic, NAME.bin its `.npy` files one behind the other; `at` is the
place of each, offset and length. greedy.json has 64 tokens by argmax of NumPy and of the others, and how far their
checkpoints were from NumPy's: the largest difference of each, relative to the largest value, in any layer.
"""

import argparse
import hashlib
import io
import json
import pathlib
import sys
import tempfile

import numpy as np

import compare_traces
import forward_f64
import numpy_trace
import trace_files
from gguf_model import Model
from make_golden import CHECK_TOLERANCE, prompt_of

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "golden" / "traces"
GREEDY_TOKENS = 64
# Two positions beyond the windows of 8.
PROMPT_TOKENS, TRACED_TOKENS = 8, 3
CONTEXT = 256
# What a reader can make from the rest: as stored in an F32 cache, K is rotated K and V is V.
LEFT_OUT = ("k_cache", "v_cache")


def kept_layers(model, name):
    """The first layer, the first of the other kind where there are two and, but for the variants, the last."""
    layers = range(model.layers)
    change = [layer for layer in layers if (layer in model.local_layers) != (0 in model.local_layers)]
    return {0, *change[:1], *([] if "-" in name else [model.layers - 1])}


def traced(model, name, prompt):
    """NumPy's trace of a few positions, without what is left out."""
    trace = numpy_trace.trace(model, prompt, TRACED_TOKENS, CONTEXT)
    layers = {None, *kept_layers(model, name)}
    trace.values = {key: x for key, x in trace.values.items() if key[0] not in LEFT_OUT and key[1] in layers}
    return trace


def packed(trace):
    """The index as text and the concatenated `.npy` files."""
    with tempfile.TemporaryDirectory() as folder:
        trace.write(folder)
        folder = pathlib.Path(folder)
        index = json.loads((folder / "index.json").read_text())
        data = b""
        for entry in index["tensors"]:
            piece = (folder / entry["file"]).read_bytes()
            entry["at"] = [len(data), len(piece)]
            data += piece
    head = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in index.items() if key != "tensors")
    rows = ",\n".join(json.dumps(entry) for entry in index["tensors"])
    return "{\n" + head + ',\n"tensors": [\n' + rows + "\n]\n}\n", data


def unpacked(name):
    """The committed trace: index and values by name and layer."""
    index = json.loads((FOLDER / f"{name}.json").read_text())
    data = (FOLDER / f"{name}.bin").read_bytes()
    values = {}
    for entry in index["tensors"]:
        start, length = entry["at"]
        values[entry["name"], entry["layer"]] = np.load(io.BytesIO(data[start : start + length]))
    return index, values


def ask_llama_cpp(path, model, prompt):
    import llama_cpp
    import llama_cpp_trace

    trace = llama_cpp_trace.trace(str(path), model, prompt, GREEDY_TOKENS, CONTEXT)
    return f"llama-cpp-python {llama_cpp.__version__}", trace, llama_cpp_trace.gelu_table(model)


def ask_tinygrad(path, model, prompt):
    import gpt2_trace

    return f"tinygrad {gpt2_trace.VERSION}", gpt2_trace.trace(str(path), prompt, GREEDY_TOKENS), None


def asked(ask, path, model, prompt, greedy):
    """The tokens of another implementation and the distances of its checkpoints from NumPy's."""
    version, theirs, widened = ask(path, model, prompt)
    if theirs.tokens != greedy:
        sys.exit(f"{path.stem}: NumPy and {version} choose other tokens:\n{greedy}\n{theirs.tokens}")
    ours = numpy_trace.trace(model, prompt, GREEDY_TOKENS, CONTEXT)
    with tempfile.TemporaryDirectory() as folder:
        theirs.write(folder, widened)
        reference = trace_files.read(folder)
    mine = {key: np.asarray(value, np.float32) for key, value in ours.values.items()}
    distances, problems = {}, []
    for name, layer, apart, tolerance in compare_traces.differences((ours.index, mine), reference):
        distances[name] = max(distances.get(name, 0.0), float(apart))
        if not apart <= tolerance:
            where = f"{path.stem}: {name} of layer {layer}"
            problems.append(f"{where} is {apart:.2g} from that of {version}, {tolerance:.2g} allowed")
    if problems:
        sys.exit("\n".join(problems))
    distances = {name: float(f"{apart:.2g}") for name, apart in distances.items()}
    return {"version": version, "greedy": theirs.tokens, "distances": distances}


def check(name, old, model, digest):
    """One line for each committed value that the computation does not give again."""
    if old.get("sha256") != digest:
        yield f"{name}: the model is another one"
        return
    # Greedy decoding again, in one pass: each token is the argmax of what stands before it.
    inputs = old["prompt"] + old["numpy"]
    chosen = forward_f64.forward(model, inputs[:-1], context=CONTEXT).argmax(axis=1)[len(old["prompt"]) - 1 :]
    if chosen.tolist() != old["numpy"] or old.get("llama_cpp", {}).get("greedy") != old["numpy"]:
        yield f"{name}: other greedy tokens"
    index, values = unpacked(name)
    again = traced(model, name, index["prompt_tokens"]).values
    if set(again) != set(values):
        yield f"{name}: other tensors"
    for key in set(again) & set(values):
        apart = compare_traces.distance(again[key], values[key])
        if not apart <= CHECK_TOLERANCE:
            yield f"{name}: {key} differs by {apart:.2g} of its largest value"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=pathlib.Path, help="folder with the .gguf files of write_trace_models")
    parser.add_argument("--llama-cpp", action="store_true", help="ask llama.cpp too (needs llama-cpp-python)")
    parser.add_argument("--tinygrad", action="store_true", help="ask tinygrad too about gpt2")
    parser.add_argument("--check", action="store_true", help="compare with the committed files and write nothing")
    args = parser.parse_args()
    greedy_file = FOLDER / "greedy.json"
    old = json.loads(greedy_file.read_text()) if greedy_file.exists() else {}
    paths = sorted(args.models.glob("*.gguf"))
    problems = [] if paths else [f"no .gguf files in {args.models}"]
    if args.check and {path.stem for path in paths} != set(old):
        problems.append("the models and the committed traces are not the same set")
    new = {}
    for path in paths:
        model, digest = Model(path), hashlib.sha256(path.read_bytes()).hexdigest()
        before = old.get(path.stem, {})
        if args.check:
            problems += check(path.stem, before, model, digest)
            continue
        prompt = prompt_of(path.stem, model.vocab)[:PROMPT_TOKENS]
        greedy = forward_f64.greedy(model, prompt, GREEDY_TOKENS, context=CONTEXT)
        new[path.stem] = {"sha256": digest, "prompt": prompt, "numpy": greedy}
        others = {"llama_cpp": (args.llama_cpp, ask_llama_cpp)}
        if model.arch == "gpt2":
            others["tinygrad"] = (args.tinygrad, ask_tinygrad)
        for other, (wanted, ask) in others.items():
            if wanted:
                new[path.stem][other] = asked(ask, path, model, prompt, greedy)
            elif before.get("sha256") == digest and other in before:
                new[path.stem][other] = before[other]
        FOLDER.mkdir(parents=True, exist_ok=True)
        text, data = packed(traced(model, path.stem, prompt))
        (FOLDER / f"{path.stem}.json").write_text(text)
        (FOLDER / f"{path.stem}.bin").write_bytes(data)
        print(f"wrote {path.stem} ({len(data)} bytes)")
    if new:
        rows = ",\n".join(f'"{name}": {json.dumps(values)}' for name, values in new.items())
        greedy_file.write_text("{\n" + rows + "\n}\n")
    if problems:
        sys.exit("\n".join(problems))
    if args.check:
        print(f"{len(paths)} traces agree with NumPy")


if __name__ == "__main__":
    main()
