"""Aliases: other names of keys, with the place where they were written."""

from __future__ import annotations

import pytest

from tide.config import Recipe
from tide.config.aliases import ALIASES
from tide.config.reading import declared_keys


def test_every_alias_is_free_and_names_a_key():
    declared = set(declared_keys(Recipe))
    for name, key in ALIASES.items():
        assert name not in declared
        assert f"{name.rpartition('.')[0]}.{key}" in declared


def test_aliases_set_their_keys(load, minimal):
    lines = "  lr: 1e-3\n  per_device_train_batch_size: 4\n  warmup: 0.5\n"
    lines += "  optimizer: adafactor\n  bf16: true\n"
    training = load(minimal + lines, ["training.grad_clip=0.5", "data.max_seq_length=64"]).training
    assert (training.learning_rate, training.batch_size, training.warmup_ratio) == (1e-3, 4, 0.5)
    assert (training.optim, training.precision, training.max_grad_norm) == ("adafactor", "bf16", 0.5)


def test_from_dict_knows_aliases(load, minimal):
    values = load(minimal).to_dict()
    values["student"] = {"model_name_or_path": "x"}
    assert Recipe.from_dict(values).student.path == "x"


def test_an_override_by_an_alias_wins_over_the_key(load, minimal):
    assert load(f"{minimal}  learning_rate: 1\n", ["training.lr=2"]).training.learning_rate == 2
    assert load(f"{minimal}  lr: 1\n", ["training.learning_rate=2"]).training.learning_rate == 2
    assert load(f"{minimal}  precision: bf16\n", ["training.bf16=false"]).training.precision == "fp32"


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        ("  lr: fast", "training.learning_rate", "a number above 0, got 'fast'"),
        ("  bf16: x", "training.precision", "one of fp32, bf16"),
        ("  steps: 3", "training.steps", "the same key as max_steps, given at r.yaml:10"),
        ("  epoch: 3", "training.epoch", "nearest known key: training.num_train_epochs"),
    ],
)
def test_a_wrong_alias_is_named_at_its_line(problem, minimal, line, key, words):
    found = problem(f"{minimal}{line}\n")
    assert (found.place.line, found.key) == (11, key)
    assert words in found.message
