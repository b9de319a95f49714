"""Load the tokenizers that a recipe's method needs, and check them against it and the models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tide.config import at_key
from tide.methods import METHODS, names_across_tokenizers
from tide.models import load_config, load_tokenizer, mask_remedy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tide.config import ModelConfig, Recipe


@dataclass(frozen=True)
class Tokenizers:
    """The tokenizers of a run; `shared_vocab_size` is None for equal vocabularies."""

    student: PreTrainedTokenizerFast
    teacher: PreTrainedTokenizerFast | None
    shared_vocab_size: int | None = None

    def by_role(self) -> dict[str, PreTrainedTokenizerFast]:
        """The student's, and the teacher's where one runs."""
        both = {"student": self.student, "teacher": self.teacher}
        return {role: tokenizer for role, tokenizer in both.items() if tokenizer is not None}


def load_tokenizers(recipe: Recipe) -> Tokenizers:
    """Load the tokenizers that the method needs.

    Raises:
        ValueError: a tokenizer is unreadable or has no mask token, or the method needs one vocabulary and
            there are two.
    """
    student = _tokenizer_of("student", recipe.student)
    method = METHODS[recipe.method]
    if not method.has_teacher or recipe.teacher is None:
        return Tokenizers(student, None)
    teacher = _tokenizer_of("teacher", recipe.teacher)
    if method.across_tokenizers:
        return Tokenizers(student, teacher)
    return Tokenizers(student, teacher, _shared_vocab_size(recipe, student, teacher))


def check_embeddings(recipe: Recipe, tokenizers: Tokenizers) -> None:
    """Check that every id of a tokenizer has an embedding.

    Raises:
        ValueError: names the side whose model is too narrow.
    """
    for role, tokenizer in tokenizers.by_role().items():
        width = _width_of(role, getattr(recipe, role))
        highest = max(tokenizer.get_vocab().values())
        if highest >= width:
            remedy = "call model.resize_token_embeddings(len(tokenizer)) and save the model"
            if tokenizer.mask_token_id is not None and tokenizer.mask_token_id >= width:
                remedy = f"a mask token that has an embedding: {mask_remedy(tokenizer, width)}"
            raise ValueError(
                f"distill: the {role}'s tokenizer has ids up to {highest}, its model only "
                f"{width} embeddings. Give {role}.tokenizer the tokenizer that the model was trained with, "
                f"or {remedy}."
            )


def check_shared_ids(tokenizers: Tokenizers, highest: int) -> None:
    """Check that the student's ids mean the same to the teacher, where both read them.

    Raises:
        ValueError: an id up to `highest` means something else to the teacher.
    """
    if tokenizers.shared_vocab_size is not None and highest >= tokenizers.shared_vocab_size:
        token = tokenizers.student.convert_ids_to_tokens(highest)
        raise ValueError(
            f"distill: the text holds the student's token {token!r} (id {highest}), and the two tokenizers "
            f"differ from id {tokenizers.shared_vocab_size} on. Take that token out of the text, end-of-text "
            f"included, or use a method across tokenizers: {names_across_tokenizers()}."
        )


def _shared_vocab_size(
    recipe: Recipe, student: PreTrainedTokenizerFast, teacher: PreTrainedTokenizerFast
) -> int | None:
    """Count the ids that mean the same on both sides; None when all do and the heads are equally wide."""
    assert recipe.teacher is not None
    entries, teacher_entries = (
        {token_id: token for token, token_id in tokenizer.get_vocab().items()}
        for tokenizer in (student, teacher)
    )
    shared = next((i for i in range(len(entries)) if entries.get(i) != teacher_entries.get(i)), len(entries))
    sample = "def f(x):\n    return [x, 'ä', 1.5]  # 你好"
    sides = [side(sample, add_special_tokens=False)["input_ids"] for side in (student, teacher)]
    if shared < len(entries) / 2 or sides[0] != sides[1]:
        raise ValueError(
            f"distill: method {recipe.method} compares distributions over one vocabulary, and the two "
            f"tokenizers differ from id {shared} on. Use a method across tokenizers: "
            f"{names_across_tokenizers()}."
        )
    widths = {_width_of("student", recipe.student), _width_of("teacher", recipe.teacher)}
    return None if shared == len(entries) == len(teacher_entries) and len(widths) == 1 else shared


def _tokenizer_of(role: str, model: ModelConfig) -> PreTrainedTokenizerFast:
    with at_key(f"{role}.path"):
        config = load_config(model.path)
    with at_key(f"{role}.{model.tokenizer_key}"):
        # An autoregressive teacher reads no mask.
        return load_tokenizer(model.tokenizer_path, needs_mask=role == "student", config=config)


def _width_of(role: str, model: ModelConfig) -> int:
    """Read the number of a model's embeddings."""
    with at_key(f"{role}.path"):
        return int(load_config(model.path).get_text_config().vocab_size)
