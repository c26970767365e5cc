#!/usr/bin/env python3
"""What llama.cpp makes of special tokens, byte tokens and spaces: makes tests/golden/tokenizers/special_tokens.json.

    make_special_tokens.py            # needs llama-cpp-python 0.3.36, see llama_cpp_reference.py
    make_special_tokens.py --check

Two small vocabularies, one SentencePiece, one byte-level, each under several sets of keys as the families have them.
No text may merge into a control token here: llama.cpp makes the token then, this program does not (TXT-10).
"""

import json
import random
import tempfile
from pathlib import Path

from vocab_files import (BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Vocabulary, byte_characters, write,
                         write_or_check)

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "tokenizers" / "special_tokens.json"
VERSION = "llama.cpp of llama-cpp-python 0.3.36"

SPECIAL = [
    ("<|user|>", CONTROL), ("<|assistant|>", CONTROL), ("<|end|>", CONTROL), ("<|endoftext|>", CONTROL),
    ("<|im_start|>", CONTROL), ("<|im_end|>", USER_DEFINED), ("<start_of_turn>", CONTROL), ("<end_of_turn>", NORMAL),
    ("<|fim_prefix|>", USER_DEFINED), ("<|fim_suffix|>", NORMAL), ("▁<MID>", NORMAL), ("<|file_sep|>", USER_DEFINED),
    ("[INST]", USER_DEFINED), ("<table>", USER_DEFINED), ("<tab", USER_DEFINED), ("\n\n", USER_DEFINED),
    ("\n\n\n", USER_DEFINED), ("  ", USER_DEFINED), ("    ", USER_DEFINED), ("<unused0>", CONTROL),
    ("<mask>", UNUSED),
]

PIECES = [
    ("▁", -1.0), ("a", -2.0), ("b", -2.0), ("c", -2.0), ("h", -3.0), ("e", -3.0), ("l", -3.0), ("o", -3.0),
    ("<", -9.0),
    (">", -9.0), ("▁a", -4.0), ("▁b", -4.0), ("▁▁", -5.0), ("▁▁▁▁", -6.0), ("ab", -5.5), ("bc", -5.5), ("he", -6.5),
    ("ll", -6.5), ("hell", -7.0), ("hello", -8.0), ("▁hello", -7.5), ("\t", -9.0), ("中", -9.0), ("a▁b", -5.2),
]


def sentence_piece():
    tokens = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    tokens += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    tokens += [(text, score, NORMAL) for text, score in PIECES]
    return tokens + [(text, 0.0, kind) for text, kind in SPECIAL]


MERGES = ["h e", "l l", "he ll", "hell o", "Ġ hello", "Ġ Ġ", "a b", "Ġ a", "Ċ Ċ"]


def byte_level():
    tokens = [(letter, 0.0, NORMAL) for letter in byte_characters()]
    tokens += [(merge.replace(" ", ""), 0.0, NORMAL) for merge in MERGES]
    tokens += [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    return tokens + [(text, 0.0, kind) for text, kind in SPECIAL]


def cases():
    """What is tried under each set of keys: keys, the model's name, and types that differ."""
    llama = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    yield "llama", llama, None, {}
    yield "llama", {}, "Mistral", {}
    yield "llama", {**llama, "add_space_prefix": True, "add_bos_token": True, "add_eos_token": False}, "Llama", {}
    yield "llama", {**llama, "add_space_prefix": False, "add_bos_token": True}, "gemma-2b", {}
    yield "llama", {**llama, "add_space_prefix": False, "add_bos_token": False, "add_eos_token": True}, None, {}
    # Space that is a token itself would be taken or not by the order in which llama.cpp looks for tokens.
    no_space = {"\n\n": UNUSED, "\n\n\n": UNUSED, "  ": UNUSED, "    ": UNUSED}
    yield "llama", {**llama, "add_eos_token": True}, "Phi-3-mini", no_space
    yield "llama", {**llama, "add_space_prefix": False}, "my phi3", {**no_space, "<end_of_turn>": CONTROL}
    yield "llama", {**llama, "fim_pre_token_id": 7, "remove_extra_whitespaces": True}, None, {"</s>": NORMAL}
    other = {"<unk>": USER_DEFINED, "<|user|>": UNUSED}
    yield "llama", {**llama, "prefix_token_id": 7, "eot_token_id": 260}, None, other
    ends = {"bos_token_id": 266, "eos_token_id": 267}
    yield "gpt2", {"pre": "gpt-2", **ends}, None, {}
    yield "gpt2", {"pre": "llama-bpe", **ends}, None, {}
    yield "gpt2", {"pre": "tekken", **ends, "add_eos_token": True}, None, {}
    yield "gpt2", {"pre": "qwen2", **ends, "add_bos_token": False, "eos_token_id": 260}, "Qwen", {}
    yield "gpt2", {"pre": "qwen2", **ends, "add_bos_token": True, "add_space_prefix": True}, "phi-3", no_space


def texts():
    """Special tokens between words and spaces, by hand and from a fixed seed."""
    fixed = [
        "", " ", "hello", " hello", "hello ", "a  b", "a b", "a\nb", "é中\u200d🚀\x00", "<s>hello</s>",
        "<s> hello </s> a",
        "<|user|>\n hello<|end|>\n<|assistant|> \t\n", "<|user|><|end|>", "  <|user|>  \u00a0a", "[INST] a [INST]b",
        "<table>a<tab", "<tables> <tab>", "\n\n\n\n\n", "a\n\nb\n\n\n", "\n\n \n", "         a", "a     b",
        "<unk>a <unk> ",
        "<|im_start|>a<|im_end|>\n", "<|fim_prefix|>a<|fim_suffix|>b▁<MID>c <MID>", "<|file_sep|> a",
        "<unused0><mask> a",
        "<end_of_turn>\na<start_of_turn>", "<0x0A> <0x41>", "▁a▁▁b", "<|endoftext|> a",
        "<|end|> \x0b\x0c\r a <|end|>\u2003b",
        "<|end|>\n\n\na", "<|user|>    a", "hello<s>", "<<|user|>>",
    ]
    rng = random.Random(11)
    parts = ["a", "b", "hello", " ", "  ", "\n", "\n\n", "\t", "é", "<", "<s>", "</s>"]
    parts += [token for token, _ in SPECIAL]
    return fixed + ["".join(rng.choices(parts, k=rng.randint(3, 7))) for _ in range(40)]


def measure(model, keys, name, changed, folder):
    tokens = sentence_piece() if model == "llama" else byte_level()
    types = [changed.get(text, kind) for text, _, kind in tokens]
    spellings = [text for text, _, _ in tokens]
    scores = [score for _, score, _ in tokens] if model == "llama" else None
    path = folder / "vocabulary.gguf"
    merges = MERGES if model == "gpt2" else None
    write(path, model, spellings, keys, scores=scores, types=types, merges=merges, name=name)
    vocab = Vocabulary(path)
    ids = {}
    for label, special, parse in (("text", False, False), ("parsed", False, True), ("whole", True, True)):
        ids[label] = [" ".join(map(str, vocab.encode(text, special, parse))) for text in texts()]
    first = 259 if model == "llama" else 256
    pieces = [vocab.piece(token).decode() for token in range(first, vocab.size)]
    case = {"model": model, "keys": keys, "name": name, "types": changed}
    case |= {"ends": vocab.ends_generation(), "pieces": pieces, **ids}
    vocab.close()
    return case


def make():
    vocabularies = {"llama": sentence_piece()[259:], "gpt2": byte_level()[256:]}
    with tempfile.TemporaryDirectory() as folder:
        measured = [measure(*case, Path(folder)) for case in cases()]
    parts = [f'"made_by": {json.dumps(VERSION)}', f'"merges": {json.dumps(MERGES)}']
    parts += [f'"tokens_{model}": {json.dumps(tokens)}' for model, tokens in vocabularies.items()]
    parts.append('"texts": ' + json.dumps(texts()))
    lines = lambda case: ",\n  ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in case.items())
    parts.append('"cases": [\n' + ",\n".join(f"{{ {lines(case)} }}" for case in measured) + "\n]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    write_or_check(__doc__, GOLDEN, make)
