"""Checks the trainer on a tiny model: `python -m pytest test_train.py`. Some seconds on one core."""

import math

import pytest
import torch

import generate_corpus as generator
import train

TINY = {
    "llama": dict(vocab=400, context=512, hidden=32, ffn=64, layers=2, heads=4, kv_heads=2, theta=10000.0, eps=1e-5),
    "gpt2": dict(vocab=400, context=512, hidden=32, ffn=64, layers=2, heads=4, eps=1e-5),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus")
    generator.write(directory, generator.generate(300, 1))
    return directory


def run(monkeypatch, arch, corpus, out, *more):
    monkeypatch.setattr(train, "CONFIG", TINY)
    arguments = ["--arch", arch, "--corpus", str(corpus), "--out", str(out), "--steps", "6", "--batch", "4"]
    train.train(train.parse([*arguments, "--threads", "1", "--eval-stories", "4", *more]))
    return torch.load(out / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize("arch", sorted(TINY))
def test_a_continued_run_equals_one_run(monkeypatch, corpus, tmp_path, arch):
    whole = run(monkeypatch, arch, corpus, tmp_path / "whole")
    assert run(monkeypatch, arch, corpus, tmp_path / "parts", "--until", "3")["step"] == 3
    parts = run(monkeypatch, arch, corpus, tmp_path / "parts")
    assert parts["step"] == whole["step"] == 6
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, parts["model"][name]), name


@pytest.mark.parametrize("arch", sorted(TINY))
def test_no_token_sees_a_later_one(arch):
    torch.manual_seed(1)
    model = train.make_model(arch, TINY[arch])
    ids = torch.randint(0, 400, (1, 12))
    changed = ids.clone()
    changed[0, 8] = (changed[0, 8] + 1) % 400
    with torch.no_grad():
        first, second = model(ids), model(changed)
    assert torch.allclose(first[0, :8], second[0, :8], atol=1e-6)
    assert not torch.allclose(first[0, 8:], second[0, 8:], atol=1e-6)


def test_padding_has_no_loss():
    torch.manual_seed(1)
    model = train.make_model("llama", TINY["llama"])
    short, long = [1, 5, 6, 2], [1, 7, 8, 9, 10, 11, 2]
    with torch.no_grad():
        apart = train.loss_of(model, [short], "sum") + train.loss_of(model, [long], "sum")
        assert math.isclose(train.loss_of(model, [short, long], "sum").item(), apart.item(), rel_tol=1e-5)


def test_every_epoch_is_shuffled_and_repeats_no_story():
    rows = [[0] * (20 + i % 50) for i in range(100)]
    first = [i for batch in train.epoch_batches(rows, 10, 1, 0) for i in batch]
    assert sorted(first) == list(range(100))
    assert train.epoch_batches(rows, 10, 1, 0) != train.epoch_batches(rows, 10, 1, 1)
