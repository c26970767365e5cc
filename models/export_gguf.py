#!/usr/bin/env python3
"""Writes a checkpoint of train.py as GGUF.

    python export_gguf.py --checkpoint DIR --out FILE.gguf [--type f16|q8_0]

Matrices get the type; norms, biases and learned positions stay F32. The parameters have GGUF's names already, and
RoPE rotates adjacent pairs, so that nothing is permuted. The LM head is tied to the embedding and not written again.
"""

import argparse
import json
import pathlib

import gguf
import numpy
import torch

TYPES = {"f16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
FILE_TYPES = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}


def add_config(writer, config):
    writer.add_context_length(config["context"])
    writer.add_embedding_length(config["hidden"])
    writer.add_block_count(config["layers"])
    writer.add_feed_forward_length(config["ffn"])
    writer.add_head_count(config["heads"])
    if config["arch"] == "llama":
        writer.add_head_count_kv(config["kv_heads"])
        writer.add_layer_norm_rms_eps(config["eps"])
        writer.add_rope_freq_base(config["theta"])
        writer.add_rope_dimension_count(config["hidden"] // config["heads"])
        writer.add_vocab_size(config["vocab"])
    else:
        writer.add_layer_norm_eps(config["eps"])


def add_sentence_piece(writer, path):
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokens, scores, types = [], [], []
    for i in range(model.vocab_size()):
        kind = gguf.TokenType.NORMAL
        if model.is_unknown(i):
            kind = gguf.TokenType.UNKNOWN
        elif model.is_control(i):
            kind = gguf.TokenType.CONTROL
        elif model.is_byte(i):
            kind = gguf.TokenType.BYTE
        tokens.append(model.id_to_piece(i).encode())
        scores.append(model.get_score(i))
        types.append(kind)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)


def add_byte_level_bpe(writer, path):
    model = json.loads(path.read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(tokens) - 1))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(True)


def add_tensors(writer, parameters, kind):
    for name, tensor in parameters.items():
        values = numpy.ascontiguousarray(tensor.float().numpy())
        if values.ndim != 2 or name.startswith("position_embd"):
            writer.add_tensor(name, values)
        elif kind == "f16":
            writer.add_tensor(name, values.astype(numpy.float16))
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, TYPES[kind]), raw_dtype=TYPES[kind])


def export(directory, out, kind, name):
    config = json.loads((directory / "config.json").read_text())
    parameters = torch.load(directory / "checkpoint.pt", weights_only=True, map_location="cpu")["model"]
    writer = gguf.GGUFWriter(out, config["arch"])
    writer.add_name(name or f"llorch-demo-{config['arch']}")
    writer.add_file_type(FILE_TYPES[kind])
    add_config(writer, config)
    if config["arch"] == "llama":
        add_sentence_piece(writer, directory / "tokenizer.model")
    else:
        add_byte_level_bpe(writer, directory / "tokenizer.json")
    add_tensors(writer, parameters, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description="Write a trained demo model as GGUF.")
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, help="the folder train.py wrote")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--type", choices=sorted(TYPES), default="q8_0")
    parser.add_argument("--name")
    args = parser.parse_args()
    export(args.checkpoint, args.out, args.type, args.name)


if __name__ == "__main__":
    main()
