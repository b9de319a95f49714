"""Tokenizers of a recipe against its models' embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.flow.recipes import tiny_recipe
from tests.tiny import make_tokenizer
from tide.models import load_model
from tide.preparation import check_embeddings, load_tokenizers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tiny import TinyCheckpoints

ADDED = "<|new mask|>"


def test_an_added_mask_token_is_led_to_an_embedding(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path
) -> None:
    """Each way out that the message names is one: the token that is there, and an embedding more."""
    recipe = tiny_recipe(tiny_checkpoints, tmp_path / "run")
    folder = tmp_path / "student"
    recipe = recipe.replace(student={"path": str(folder)})
    model = load_model(str(tiny_checkpoints.student), trainable=False)
    model.save_pretrained(folder)
    tokenizer = make_tokenizer(300, mask=None)
    tokenizer.add_special_tokens({"mask_token": ADDED})
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError) as raised:
        check_embeddings(recipe, load_tokenizers(recipe))
    assert str(raised.value) == (
        "distill: the student's tokenizer has ids up to 300, its model only 300 embeddings. Give "
        "student.tokenizer the tokenizer that the model was trained with, or a mask token that has an "
        "embedding: name the one that looks like it (tokenizer.mask_token = '<|mask|>') and save the "
        'tokenizer; or add one (tokenizer.add_special_tokens({"mask_token": "<|mask|>"})), call '
        "model.resize_token_embeddings(len(tokenizer)) if the model has fewer embeddings, and save both."
    )
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    check_embeddings(recipe, load_tokenizers(recipe))
