#!/usr/bin/env python3
"""Trains a demo model on the generated corpus, on the CPU.

    python train.py --arch llama --corpus DIR --out DIR [--steps 6000] [--minutes M] [--threads N]

DIR of --out gets the tokenizer (trained on the corpus, once) and checkpoint.pt, which a later run continues from.
The learning rate follows --steps, so that a run in several parts equals one in a single part.
"""

import argparse
import json
import math
import os
import pathlib
import random
import time

import torch
from torch import nn
from torch.nn import functional as F

CONFIG = {
    "llama": dict(vocab=1536, context=512, hidden=256, ffn=768, layers=4, heads=8, kv_heads=4, theta=10000.0, eps=1e-5),
    "gpt2": dict(vocab=1536, context=512, hidden=256, ffn=1024, layers=4, heads=8, eps=1e-5),
}
PEAK_RATE, WARM_UP, WEIGHT_DECAY, CLIP = 1.5e-3, 100, 0.1, 1.0


# Tokenizers: both give a story as BOS, its ids, EOS.


class SentencePieceTokenizer:
    FILE = "tokenizer.model"

    def __init__(self, directory, corpus, vocab):
        import sentencepiece

        if not (directory / self.FILE).exists():
            sentencepiece.SentencePieceTrainer.train(
                input=str(corpus / "train.txt"),
                model_prefix=str(directory / "tokenizer"),
                model_type="bpe",
                vocab_size=vocab,
                byte_fallback=True,
                character_coverage=1.0,
                unk_id=0,
                bos_id=1,
                eos_id=2,
                pad_id=-1,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                split_digits=True,
                num_threads=1,
                input_sentence_size=20000,
                shuffle_input_sentence=False,
                minloglevel=1,
            )
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(directory / self.FILE))
        self.bos, self.eos, self.size = 1, 2, self.model.vocab_size()

    def encode(self, text):
        return self.model.encode(text)

    def decode(self, ids):
        return self.model.decode(ids)


class ByteLevelTokenizer:
    FILE = "tokenizer.json"

    def __init__(self, directory, corpus, vocab):
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers

        if not (directory / self.FILE).exists():
            model = tokenizers.Tokenizer(models.BPE())
            model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            model.decoder = decoders.ByteLevel()
            trainer = trainers.BpeTrainer(
                vocab_size=vocab,
                special_tokens=["<|endoftext|>"],
                show_progress=False,
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            )
            model.train([str(corpus / "train.txt")], trainer)
            model.save(str(directory / self.FILE))
        self.model = tokenizers.Tokenizer.from_file(str(directory / self.FILE))
        self.bos = self.eos = 0
        self.size = self.model.get_vocab_size()

    def encode(self, text):
        return self.model.encode(text).ids

    def decode(self, ids):
        return self.model.decode(ids)


TOKENIZERS = {"llama": SentencePieceTokenizer, "gpt2": ByteLevelTokenizer}


# Models. Parameters have the names of the GGUF tensors, shapes `[outputs, inputs]`.


def rotate(x, cos, sin):
    """RoPE of adjacent pairs; `x` is `[batch, heads, tokens, head_dim]`, the tables `[tokens, head_dim / 2]`."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class LlamaLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = c["heads"], c["kv_heads"], c["hidden"] // c["heads"]
        kv = self.kv_heads * self.head_dim
        self.attn_norm = nn.RMSNorm(c["hidden"], eps=c["eps"])
        self.attn_q = nn.Linear(c["hidden"], c["hidden"], bias=False)
        self.attn_k = nn.Linear(c["hidden"], kv, bias=False)
        self.attn_v = nn.Linear(c["hidden"], kv, bias=False)
        self.attn_output = nn.Linear(c["hidden"], c["hidden"], bias=False)
        self.ffn_norm = nn.RMSNorm(c["hidden"], eps=c["eps"])
        self.ffn_gate = nn.Linear(c["hidden"], c["ffn"], bias=False)
        self.ffn_up = nn.Linear(c["hidden"], c["ffn"], bias=False)
        self.ffn_down = nn.Linear(c["ffn"], c["hidden"], bias=False)

    def forward(self, x, cos, sin):
        batch, tokens, hidden = x.shape

        def split(y, heads):
            return y.view(batch, tokens, heads, self.head_dim).transpose(1, 2)

        y = self.attn_norm(x)
        q = rotate(split(self.attn_q(y), self.heads), cos, sin)
        k = rotate(split(self.attn_k(y), self.kv_heads), cos, sin)
        v = split(self.attn_v(y), self.kv_heads)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_output(y.transpose(1, 2).reshape(batch, tokens, hidden))
        y = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(y)) * self.ffn_up(y))


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.token_embd = nn.Embedding(c["vocab"], c["hidden"])
        self.blk = nn.ModuleList(LlamaLayer(c) for _ in range(c["layers"]))
        self.output_norm = nn.RMSNorm(c["hidden"], eps=c["eps"])
        head_dim = c["hidden"] // c["heads"]
        frequencies = c["theta"] ** (-torch.arange(0, head_dim, 2).float() / head_dim)
        angles = torch.outer(torch.arange(c["context"]).float(), frequencies)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids):
        x = self.token_embd(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.blk:
            x = layer(x, cos, sin)
        return self.output_norm(x) @ self.token_embd.weight.T


class Gpt2Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = c["heads"]
        self.attn_norm = nn.LayerNorm(c["hidden"], eps=c["eps"])
        self.attn_qkv = nn.Linear(c["hidden"], 3 * c["hidden"])
        self.attn_output = nn.Linear(c["hidden"], c["hidden"])
        self.ffn_norm = nn.LayerNorm(c["hidden"], eps=c["eps"])
        self.ffn_up = nn.Linear(c["hidden"], c["ffn"])
        self.ffn_down = nn.Linear(c["ffn"], c["hidden"])

    def forward(self, x):
        batch, tokens, hidden = x.shape
        qkv = self.attn_qkv(self.attn_norm(x)).view(batch, tokens, 3, self.heads, hidden // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_output(y.transpose(1, 2).reshape(batch, tokens, hidden))
        return x + self.ffn_down(F.gelu(self.ffn_up(self.ffn_norm(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.token_embd = nn.Embedding(c["vocab"], c["hidden"])
        self.position_embd = nn.Embedding(c["context"], c["hidden"])
        self.blk = nn.ModuleList(Gpt2Layer(c) for _ in range(c["layers"]))
        self.output_norm = nn.LayerNorm(c["hidden"], eps=c["eps"])

    def forward(self, ids):
        x = self.token_embd(ids) + self.position_embd.weight[: ids.shape[1]]
        for layer in self.blk:
            x = layer(x)
        return self.output_norm(x) @ self.token_embd.weight.T


MODELS = {"llama": Llama, "gpt2": Gpt2}


def make_model(arch, config):
    model = MODELS[arch](config)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            scale = 0.02
            if "attn_output" in name or "ffn_down" in name:
                scale /= math.sqrt(2 * config["layers"])
            nn.init.normal_(parameter, std=scale)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return model


# Data: one story a row, padded to the longest of its batch; the padding has no loss.


def load_stories(path, tokenizer, context):
    rows = [[tokenizer.bos, *tokenizer.encode(line), tokenizer.eos] for line in path.read_text().splitlines()]
    return [row for row in rows if len(row) <= context]


def epoch_batches(rows, size, seed, epoch):
    """Batches of rows of similar length, in an order that the seed and the epoch decide."""
    rng = random.Random(seed * 1_000_003 + epoch)
    order = list(range(len(rows)))
    rng.shuffle(order)
    order.sort(key=lambda i: len(rows[i]) // 16)
    batches = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    rng.shuffle(batches)
    return batches


def tensors(rows):
    width = max(map(len, rows)) - 1
    inputs, targets = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), -100)
    for i, row in enumerate(rows):
        inputs[i, : len(row) - 1] = torch.tensor(row[:-1])
        targets[i, : len(row) - 1] = torch.tensor(row[1:])
    return inputs, targets


def loss_of(model, rows, reduction="mean"):
    inputs, targets = tensors(rows)
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=-100, reduction=reduction)


@torch.no_grad()
def perplexity(model, rows):
    """Per token, of every token after BOS, EOS included."""
    total = sum(loss_of(model, rows[i : i + 16], "sum").item() for i in range(0, len(rows), 16))
    return math.exp(total / sum(len(row) - 1 for row in rows))


@torch.no_grad()
def greedy(model, tokenizer, prompt, context, limit=256):
    ids = [tokenizer.bos, *tokenizer.encode(prompt)]
    for _ in range(min(limit, context - len(ids))):
        following = model(torch.tensor([ids]))[0, -1].argmax().item()
        if following == tokenizer.eos:
            return tokenizer.decode(ids[1:]) + " <end>"
        ids.append(following)
    return tokenizer.decode(ids[1:])


def rate(step, steps):
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    done = min(1.0, (step - WARM_UP) / max(1, steps - WARM_UP))
    return PEAK_RATE * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def save(path, **state):
    """Replaces the checkpoint as a whole, so that an interrupted write loses nothing."""
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def make_optimizer(model):
    decayed = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95))


def train(args):
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    config = CONFIG[args.arch]
    tokenizer = TOKENIZERS[args.arch](args.out, args.corpus, config["vocab"])
    config = config | {"vocab": tokenizer.size, "arch": args.arch}
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    rows = load_stories(args.corpus / "train.txt", tokenizer, config["context"])
    held_out = load_stories(args.corpus / "heldout.txt", tokenizer, config["context"])
    model = make_model(args.arch, config)
    optimizer = make_optimizer(model)
    print(
        f"{args.arch}: {sum(p.numel() for p in model.parameters())} parameters, {len(rows)} stories,"
        f" {sum(map(len, rows))} tokens, vocabulary {tokenizer.size}",
        flush=True,
    )

    checkpoint, step, spent = args.out / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["seconds"]
        print(f"continued at step {step}", flush=True)

    start = saved = time.monotonic()
    per_epoch, batches, epoch, tokens = len(rows) // args.batch, None, None, 0

    def keep():
        seconds = spent + time.monotonic() - start
        save(checkpoint, model=model.state_dict(), optimizer=optimizer.state_dict(), step=step, seconds=seconds)

    while step < min(args.steps, args.until) and time.monotonic() - start < args.minutes * 60:
        if epoch != step // per_epoch:
            epoch = step // per_epoch
            batches = epoch_batches(rows, args.batch, args.seed, epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args.steps)
        chosen = [rows[i] for i in batches[step % per_epoch]]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = loss_of(model, chosen)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        step += 1
        tokens += sum(map(len, chosen))
        if step % 20 == 0:
            elapsed = time.monotonic() - start
            print(f"step {step} loss {loss.item():.4f} {tokens / elapsed:.0f} tokens/s", flush=True)
        if step % args.eval_every == 0:
            print(f"step {step} held-out perplexity {perplexity(model, held_out[: args.eval_stories]):.4f}", flush=True)
        if time.monotonic() - saved > 120:
            keep()
            saved = time.monotonic()
    keep()
    print(
        f"step {step}, {spent + time.monotonic() - start:.0f} s in all; held-out perplexity"
        f" {perplexity(model, held_out[: args.eval_stories]):.4f} of {args.eval_stories} stories"
    )
    for prompt in args.prompt:
        print(f"[{prompt}] {greedy(model, tokenizer, prompt, config['context'])}")


def parse(arguments=None):
    parser = argparse.ArgumentParser(description="Train a demo model.")
    parser.add_argument("--arch", choices=sorted(CONFIG), required=True)
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=16, help="stories a step")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop, with a checkpoint, after so long")
    parser.add_argument("--until", type=int, default=10**9, help="stop, with a checkpoint, at this step")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--bf16", action="store_true", help="matrix products of the training steps in bfloat16")
    parser.add_argument("--eval-every", type=int, default=500)
    parser.add_argument("--eval-stories", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prompt", action="append", default=["Once upon a time", "One day, a little fox"])
    return parser.parse_args(arguments)


if __name__ == "__main__":
    train(parse())
