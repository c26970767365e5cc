#!/usr/bin/env python3
"""Vocabularies as GGUF files, and what llama.cpp makes of them. Needs the packages gguf and llama-cpp-python."""

import argparse
import ctypes

import gguf
import llama_cpp as lib

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def byte_characters():
    """The printable character of each byte in byte-level vocabularies."""
    stays = [*range(33, 127), *range(161, 173), *range(174, 256)]
    free = iter(range(256, 512))
    return [chr(byte) if byte in stays else chr(next(free)) for byte in range(256)]


def write(path, model, tokens, keys, scores=None, types=None, merges=None, name=None):
    """A file without weights. `keys` are those of tokenizer.ggml that have one value, None for an absent one."""
    writer = gguf.GGUFWriter(path, "llama")
    if name is not None:
        writer.add_name(name)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types or [NORMAL] * len(tokens))
    if scores is not None:
        writer.add_token_scores(scores)
    if merges is not None:
        writer.add_token_merges(merges)
    for key, value in keys.items():
        key = f"tokenizer.ggml.{key}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


class Vocabulary:
    """The vocabulary of a file, as llama.cpp reads it."""

    _quiet = lib.llama_log_callback(lambda level, text, data: None)

    def __init__(self, path):
        lib.llama_backend_init()
        lib.llama_log_set(self._quiet, None)
        params = lib.llama_model_default_params()
        params.vocab_only = True
        self.model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp refuses this file")
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.size = lib.llama_vocab_n_tokens(self.vocab)

    def encode(self, text, add_special=False, parse_special=False):
        data = text.encode()
        ids = (lib.llama_token * (2 * len(data) + 8))()
        count = lib.llama_tokenize(self.vocab, data, len(data), ids, len(ids), add_special, parse_special)
        if count < 0:
            raise SystemExit(f"llama_tokenize: {count} for {text!r}")
        return list(ids[:count])

    def piece(self, token):
        """The bytes that a token adds to a text."""
        buffer = ctypes.create_string_buffer(256)
        count = lib.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, False)
        if count < 0:
            raise SystemExit(f"llama_token_to_piece: {count} for {token}")
        return buffer.raw[:count]

    def ends_generation(self):
        return [token for token in range(self.size) if lib.llama_vocab_is_eog(self.vocab, token)]

    def adds_bos(self):
        return bool(lib.llama_vocab_get_add_bos(self.vocab))

    def close(self):
        lib.llama_model_free(self.model)


def write_or_check(description, path, make):
    """The command line of a script that makes one file: writes what `make` gives, or compares it with --check."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file in the tree, write nothing")
    args = parser.parse_args()
    made = make()
    if args.check:
        if path.read_text() != made:
            raise SystemExit(f"{path}: not what llama.cpp says")
    else:
        path.write_text(made)
