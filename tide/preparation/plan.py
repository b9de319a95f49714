"""Open what a recipe's examples are made from, and write down the plan of it."""

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
    Source,
    check_chat_template,
    check_template_arguments,
    file_hash,
    mix,
    open_source,
    read_row,
)
from tide.methods import METHODS
from tide.preparation.examples import ExampleBuilder
from tide.preparation.manifest import FORMAT, Plan, tokenizer_fingerprint, versions_here
from tide.preparation.tokenizers import load_tokenizers

if TYPE_CHECKING:
    from tide.config import DataConfig, Recipe
    from tide.preparation.tokenizers import Tokenizers

SHARD_ROWS = 4096


@dataclass
class Preparation:
    """A recipe's sources and the order of their rows, in parts of `shard_rows`."""

    recipe: Recipe
    sources: list[Source]
    mixture: Mixture
    shard_rows: int = SHARD_ROWS

    @classmethod
    def of(
        cls, recipe: Recipe, *, tokenizers: Tokenizers | None = None, shard_rows: int = SHARD_ROWS
    ) -> Preparation:
        """Load the recipe's tokenizers, unless given, then open its sources, which may take minutes.

        Raises:
            ValueError: a tokenizer cannot be used; the recipe names no source; one is missing, holds no rows,
                or has no row in the mixture.
        """
        tokenizers = load_tokenizers(recipe) if tokenizers is None else tokenizers
        configs = recipe.data.mixture
        if not configs:
            raise ValueError(
                "prepare: the recipe names neither data.train nor data.sources, so there are no rows to "
                "prepare. Name one of them; without, training reads what data.prepared holds."
            )
        sources = _open_sources(recipe.data)
        sizes, weights = [len(source) for source in sources], [config.weight for config in configs]
        mixture = mix(
            sizes,
            weights,
            seed=recipe.data.mix_seed,
            total=recipe.data.num_rows,
            shuffle=weights != [1.0],  # a single source is read as it stands
        )
        taken = np.bincount(mixture.source, minlength=len(sources))
        if not taken.all():
            at = int(taken.argmin())
            raise ValueError(
                f"prepare: source {at} ({configs[at].path!r}, {sizes[at]:,} rows at weight {weights[at]:g}) "
                f"comes to none of the mixture's {len(mixture):,} rows. Raise data.num_rows or its weight, "
                "or leave it out."
            )
        preparation = cls(recipe, sources, mixture, shard_rows)
        preparation.tokenizers = tokenizers
        return preparation

    @cached_property
    def tokenizers(self) -> Tokenizers:
        """Loaded in the process that asks."""
        return load_tokenizers(self.recipe)

    @cached_property
    def builder(self) -> ExampleBuilder:
        """Made in the process that asks."""
        return example_builder(self.recipe, self.tokenizers)

    @property
    def parts(self) -> range:
        """Numbers of the parts."""
        return range(-(-len(self.mixture) // self.shard_rows))

    def places(self, part: int) -> range:
        """Places of the mixture that a part is made from."""
        start = part * self.shard_rows
        return range(start, min(start + self.shard_rows, len(self.mixture)))

    def where(self, place: int) -> str:
        """File and line of the row at a place."""
        return self.mixture.where(self.sources, place)

    def check_templates(self) -> None:
        """Check the chat templates where a source begins with a conversation, and their arguments.

        Raises:
            ValueError: a tokenizer has no chat template, it does not work, or never reads an argument.
        """
        firsts = [read_row(source.rows([0])[0]) for source in self.sources]
        has_conversations = any(isinstance(row, Conversation) for row in firsts)
        for role, arguments in template_arguments(self.recipe).items():
            tokenizer = self.tokenizers.by_role()[role]
            if has_conversations:
                check_chat_template(tokenizer, arguments)
            if has_conversations or (arguments and tokenizer.chat_template):
                check_template_arguments(
                    tokenizer.get_chat_template(),
                    arguments,
                    tokenizer.special_tokens_map,
                    key=f"{role}.template_arguments",
                )

    def plan(self) -> Plan:
        """Write down everything that the shards follow from; reads the sources once."""
        sources = [
            {**config.model_dump(), "rows": len(source), "sha256": _content_hash(source)}
            for config, source in zip(self.recipe.data.mixture, self.sources, strict=True)
        ]
        return Plan(
            format=FORMAT,
            sides="both" if METHODS[self.recipe.method].across_tokenizers else "student",
            sources=sources,
            tokenizers=fingerprints(self.recipe, self.tokenizers),
            options=layout_options(self.recipe) | mixing_options(self.recipe),
            shard_rows=self.shard_rows,
            versions=versions_here(),
        )


def example_builder(recipe: Recipe, tokenizers: Tokenizers, method: str | None = None) -> ExampleBuilder:
    """Build the recipe's examples, for its method or another one."""
    return ExampleBuilder(
        recipe.data,
        METHODS[method or recipe.method],
        tokenizers.student,
        tokenizers.teacher,
        block_size=recipe.masking.block_size,
        template_arguments=template_arguments(recipe),
    )


def template_arguments(recipe: Recipe) -> dict[str, dict[str, str | int | float | bool]]:
    """Variables of the chat templates that are applied, by role."""
    models = {"student": recipe.student}
    if METHODS[recipe.method].across_tokenizers and recipe.teacher is not None:
        models["teacher"] = recipe.teacher
    return {role: model.template_arguments for role, model in models.items()}


def fingerprints(recipe: Recipe, tokenizers: Tokenizers) -> dict[str, str]:
    """Hash the tokenizers that the examples are made by, by role."""
    loaded = tokenizers.by_role()
    return {role: tokenizer_fingerprint(loaded[role]) for role in template_arguments(recipe)}


def layout_options(recipe: Recipe) -> dict[str, object]:
    """What decides how an example is cut and filled, by the recipe's names."""
    across, names = METHODS[recipe.method].across_tokenizers, {"max_length", "end_fill"}
    if across:
        names |= {"chunk_merging", "chunk_max_bytes", "chunk_max_tokens"}
    options = {"block_size": recipe.masking.block_size, **recipe.data.model_dump(include=names)}
    options |= {f"{role}_template_arguments": given for role, given in template_arguments(recipe).items()}
    return options | ({"teacher_max_length": recipe.data.teacher_length} if across else {})


def mixing_options(recipe: Recipe) -> dict[str, object]:
    """What decides which rows are taken of the sources, and their order, by the recipe's names."""
    return recipe.data.model_dump(include={"mix_seed", "num_rows"})


def _open_sources(data: DataConfig) -> list[Source]:
    sources = []
    for at, config in enumerate(data.mixture):
        with at_key(f"data.sources.{at}.path" if data.train is None else "data.train"):
            source = open_source(config.path, subset=config.subset, split=config.split)
        if config.answer_contains is not None:
            with at_key(f"data.sources.{at}.answer_contains"):
                source = source.with_answer(config.answer_contains)
        sources.append(source)
    return sources


def _content_hash(source: Source) -> str:
    """Hash the files where there are files: decoding every row would take far longer."""
    if not source.files:
        return source.fingerprint()
    hashes = [file_hash(file) for file in source.files]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
