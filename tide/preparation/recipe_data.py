"""What a recipe's examples are made from: its sources in one order, its tokenizers; and the plan of that."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tide.config import at_key
from tide.data import (
    Conversation,
    Mixture,
    Plan,
    Source,
    check_chat_template,
    check_template_arguments,
    file_hash,
    mix,
    open_source,
    read_row,
    rows_with_answer,
    tokenizer_fingerprint,
    versions_here,
)
from tide.preparation.parts import builder_of, pairing_of, template_arguments
from tide.preparation.tokenizers import load_tokenizers

if TYPE_CHECKING:
    from tide.config import DataConfig, Recipe
    from tide.preparation.examples import ExampleBuilder
    from tide.preparation.tokenizers import Tokenizers

SHARD_ROWS = 4096


@dataclass
class Preparation:
    """A recipe's data and what reads it: everything that a part is made from.

    Attributes:
        recipe: what to prepare, and where to.
        sources: in the recipe's order.
        mixture: the order of their rows.
        shard_rows: rows of the mixture a part.
    """

    recipe: Recipe
    sources: list[Source]
    mixture: Mixture
    shard_rows: int = SHARD_ROWS

    @classmethod
    def of(
        cls, recipe: Recipe, *, tokenizers: Tokenizers | None = None, shard_rows: int = SHARD_ROWS
    ) -> Preparation:
        """Opens the recipe's sources, which may take minutes, and before them its tokenizers.

        Args:
            recipe: what to prepare.
            tokenizers: of its method, where they are loaded.
            shard_rows: rows of the mixture a part.
        Raises:
            ValueError: a tokenizer is unfit; the recipe names no source; one is not there, holds no rows, or
                has no row in the mixture.
        """
        tokenizers = load_tokenizers(recipe) if tokenizers is None else tokenizers
        given = recipe.data.mixture
        if not given:
            raise ValueError(
                "prepare: the recipe names neither data.train nor data.sources, so there are no rows to "
                "prepare. Name one of them; without, training reads what data.prepared holds."
            )
        sources = _opened(recipe.data)
        sizes, weights = [len(source) for source in sources], [s.weight for s in given]
        in_file_order = weights == [1.0]
        order = mix(
            sizes, weights, seed=recipe.data.mix_seed, total=recipe.data.num_rows, shuffle=not in_file_order
        )
        taken = np.bincount(order.source, minlength=len(sources))
        if not taken.all():
            at = int(taken.argmin())
            raise ValueError(
                f"prepare: source {at} ({given[at].path!r}, {sizes[at]:,} rows at weight {weights[at]:g}) "
                f"comes to none of the mixture's {len(order):,} rows. Raise data.num_rows or its weight, or "
                "leave it out."
            )
        preparation = cls(recipe, sources, order, shard_rows)
        preparation.tokenizers = tokenizers
        return preparation

    @cached_property
    def tokenizers(self) -> Tokenizers:
        """Loaded in the process that asks."""
        return load_tokenizers(self.recipe)

    @cached_property
    def builder(self) -> ExampleBuilder:
        """Made in the process that asks."""
        return builder_of(self.recipe, self.tokenizers)

    def check_templates(self) -> None:
        """Of the tokenizers that read conversations, where a source begins with one; and all arguments.

        Raises:
            ValueError: one has no chat template, it does not work, or never reads an argument.
        """
        firsts = [read_row(source.rows([0])[0]) for source in self.sources]
        has_conversations = any(isinstance(row, Conversation) for row in firsts)
        tokenizers = self.tokenizers.by_role()
        for role, arguments in template_arguments(self.recipe).items():
            tokenizer = tokenizers[role]
            if has_conversations:
                check_chat_template(tokenizer, arguments)
            if has_conversations or (arguments and tokenizer.chat_template):
                check_template_arguments(
                    tokenizer.get_chat_template(),
                    arguments,
                    tokenizer.special_tokens_map,
                    key=f"{role}.template_arguments",
                )

    def rows_of(self, number: int) -> int:
        """How many rows of the mixture a part is made from."""
        return min(self.shard_rows, len(self.mixture) - number * self.shard_rows)

    def plan(self) -> Plan:
        """Everything that the shards follow from. Reads the sources once."""
        data = self.recipe.data
        return Plan(
            sides="both" if pairing_of(self.recipe) == "cross" else "student",
            sources=[
                {**given.model_dump(), "rows": len(source), "sha256": _content_hash(source)}
                for given, source in zip(data.mixture, self.sources, strict=True)
            ],
            tokenizers=fingerprints(self.recipe, self.tokenizers),
            options=layout_options(self.recipe) | mixing_options(self.recipe),
            shard_rows=self.shard_rows,
            versions=versions_here(),
        )


def fingerprints(recipe: Recipe, tokenizers: Tokenizers) -> dict[str, str]:
    """Hashes of the tokenizers that the examples are made by, by role.

    Args:
        recipe: its method says whether the teacher has tokens of its own.
        tokenizers: of the recipe.
    """
    made_by = tokenizers.by_role()
    if pairing_of(recipe) != "cross":
        made_by = {"student": tokenizers.student}
    return {role: tokenizer_fingerprint(tokenizer) for role, tokenizer in made_by.items()}


def layout_options(recipe: Recipe) -> dict[str, object]:
    """What decides how an example is cut and filled, by the recipe's names."""
    options: dict[str, object] = {
        "block_size": recipe.masking.block_size,
        "max_length": recipe.data.max_length,
        "end_fill": recipe.data.end_fill,
    }
    options |= {f"{role}_template_arguments": given for role, given in template_arguments(recipe).items()}
    if pairing_of(recipe) == "cross":
        options |= {
            "teacher_max_length": recipe.data.teacher_length,
            "chunk_merging": recipe.data.chunk_merging,
            "chunk_max_bytes": recipe.data.chunk_max_bytes,
            "chunk_max_tokens": recipe.data.chunk_max_tokens,
        }
    return options


def mixing_options(recipe: Recipe) -> dict[str, object]:
    """What decides which rows are taken of the sources, and their order, by the recipe's names."""
    return {"mix_seed": recipe.data.mix_seed, "num_rows": recipe.data.num_rows}


def _opened(data: DataConfig) -> list[Source]:
    sources = []
    for at, given in enumerate(data.mixture):
        with at_key(f"data.sources.{at}.path" if data.train is None else "data.train"):
            source = open_source(given.path, subset=given.subset, split=given.split)
        if given.answer_contains is not None:
            with at_key(f"data.sources.{at}.answer_contains"):
                source = rows_with_answer(source, given.answer_contains)
        sources.append(source)
    return sources


def _content_hash(source: Source) -> str:
    """Of the files where there are files: decoding every row would take far longer."""
    if not source.files:
        return source.fingerprint()
    hashes = [file_hash(file) for file in source.files]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
