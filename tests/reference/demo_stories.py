#!/usr/bin/env python3
"""What llama.cpp writes with the demo model, greedily, until the model ends its story.

    demo_stories.py models/demo-llama-q8_0.gguf tests/demo_stories.json

Needs llama-cpp-python, as llama_cpp_reference.py does. K and V are F16, as in the server by default.
"""

import ctypes
import json
import sys

import llama_cpp as lib
import llama_cpp_reference

PROMPTS = [
    "Once upon a time",
    "Once upon a time, there was a brave boy named Leo",
    "One day, a little fox",
    "There was a dragon named",
    "In a quiet valley, there lived",
    "Far away, there lived a young robot",
    "A funny girl named Ruby",
    'Emma had a red kite and took it everywhere. One day, the kite was gone. "Where is my kite?"',
    "Every day, a happy lion named Max played outside. One cold night, Max could not sleep.",
    "Do you know Tilly? Tilly was a shy elephant. On a sunny morning, Tilly heard someone crying near the river.",
]
LIMIT = 256
# Two engines round differently; a choice between logits closer than this is left to that.
CLOSE = 0.02


def tokenize(vocab, text):
    data = text.encode()
    tokens = (ctypes.c_int32 * (len(data) + 8))()
    count = lib.llama_tokenize(vocab, data, len(data), tokens, len(tokens), True, False)
    return list(tokens[:count])


def detokenize(vocab, tokens):
    array = (ctypes.c_int32 * len(tokens))(*tokens)
    out = ctypes.create_string_buffer(64 * (len(tokens) + 1))
    count = lib.llama_detokenize(vocab, array, len(tokens), out, len(out), True, False)
    return out.raw[:count].decode()


def story(path, prompt):
    session = llama_cpp_reference.Session(path, 512, "f16")
    vocab = lib.llama_model_get_vocab(session.model)
    ids = tokenize(vocab, prompt)
    row, chosen, sure = session.decode(ids)[-1], [], None
    while len(chosen) < LIMIT:
        second, best = sorted(row)[-2:]
        if sure is None and best - second < CLOSE:
            sure = len(chosen)
        token = int(row.argmax())
        if lib.llama_vocab_is_eog(vocab, token):
            break
        chosen.append(token)
        row = session.decode([token])[-1]
    session.close()
    start = detokenize(vocab, ids)
    text = detokenize(vocab, ids + chosen).removeprefix(start)
    sure = len(chosen) if sure is None else sure
    return {"prompt": prompt, "text": text, "sure": detokenize(vocab, ids + chosen[:sure]).removeprefix(start)}


def main():
    path, out = sys.argv[1:3]
    stories = [story(path, prompt) for prompt in PROMPTS]
    with open(out, "w") as file:
        json.dump({"stories": stories}, file, indent=1)
        file.write("\n")
    for each in stories:
        print(f"{len(each['sure'])} of {len(each['text'])} characters are sure: [{each['prompt']}]{each['text']}")


if __name__ == "__main__":
    main()
