"""Held-out data: its split, and that no file of it is trained on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.flow.recipes import tiny_values
from tide.config import Recipe
from tide.contract import AUTOREGRESSIVE, Contract
from tide.preparation import held_out_examples, load_tokenizers, prepare

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """A directory of three splits, and a file beside them."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train", "test", "validation"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"prompt": "", "completion": f"of {name}"}))
    (tmp_path / "more.jsonl").write_text(json.dumps({"text": "more"}))
    return folder


@pytest.fixture
def held_out(tiny_checkpoints, tmp_path):
    """The held-out texts of a recipe's data."""

    def texts(**data: object) -> list[str]:
        values = tiny_values(tiny_checkpoints, tmp_path / "run")
        values["data"] |= {"train": None, **data}
        recipe = Recipe.from_dict(values)
        tokenizers = load_tokenizers(recipe)
        return [
            tokenizers.student.decode(example.student.token_ids, skip_special_tokens=True)
            for example in held_out_examples(recipe, tokenizers)
        ]

    return texts


def test_the_teacher_reads_the_same_rows_in_its_tokens_and_blocks(splits, tiny_checkpoints, tmp_path):
    values = tiny_values(tiny_checkpoints, tmp_path / "run", "tide_cross")
    values["data"] |= {"train": str(splits), "held_out": str(splits), "teacher_max_length": 40}
    recipe = Recipe.from_dict(values)
    tokenizers = load_tokenizers(recipe)
    text = [
        *tokenizers.teacher("of test", add_special_tokens=False)["input_ids"],
        tokenizers.teacher.eos_token_id,
    ]
    for contract, filled in ((AUTOREGRESSIVE, len(text)), (Contract(1, 16), 16), (Contract(1, None), 8)):
        (example,) = held_out_examples(recipe, tokenizers, contract)
        ids = example.student.token_ids.tolist()
        assert ids[: len(text)] == text and len(ids) == -(-len(text) // filled) * filled


def test_one_directory_gives_training_and_held_out_rows(splits, held_out):
    assert held_out(train=str(splits), held_out=str(splits)) == ["of test"]
    data = {"train": str(splits), "held_out": str(splits), "held_out_split": "validation"}
    assert held_out(**data) == ["of validation"]


def test_a_split_does_not_apply_to_a_file(splits, held_out):
    more = str(splits.parent / "more.jsonl")
    assert held_out(train=str(splits), held_out=more, held_out_split="validation") == ["more"]
    with pytest.raises(ValueError, match="has no split 'dev', only"):
        held_out(train=more, held_out=str(splits), held_out_split="dev")


def test_a_file_that_is_trained_on_by_another_path_is_found(splits, held_out):
    test, message = str(splits / "test.jsonl"), r"test\.jsonl' is held out and trained on \(the source .*"
    for path in (str(splits), test):
        for source in ({"path": str(splits / "*.jsonl")}, {"path": str(splits), "split": "test"}):
            if {"path": path, "split": "test"} != source:
                with pytest.raises(ValueError, match=message):
                    held_out(sources=[{"path": str(splits.parent / "more.jsonl")}, source], held_out=path)
    # A directory without splits is read whole for either.
    for name in ("train", "test", "validation"):
        (splits / f"{name}.jsonl").rename(splits / f"part_{name[:3]}s.jsonl")
    with pytest.raises(ValueError, match="is held out and trained on"):
        held_out(train=str(splits), held_out=str(splits))


def test_missing_training_sources_are_skipped(splits, held_out, tmp_path):
    data = {"train": str(tmp_path / "gone.jsonl"), "held_out": str(splits)}
    assert held_out(**data) == ["of test"]


def test_sources_of_prepared_data_are_trained_on(splits, held_out, tiny_checkpoints, tmp_path):
    values = tiny_values(tiny_checkpoints, tmp_path / "run")
    prepared = str(tmp_path / "prepared")
    values["data"] |= {"train": str(splits), "prepared": prepared}
    prepare(Recipe.from_dict(values), workers=1)
    assert held_out(prepared=prepared, held_out=str(splits)) == ["of test"]
    for path in (splits / "train.jsonl", splits):
        with pytest.raises(ValueError, match=r"train\.jsonl' is held out and trained on"):
            held_out(prepared=prepared, held_out=str(path), held_out_split="train")
