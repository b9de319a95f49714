"""The examples of a run: shards that `tide prepare` wrote, or prepared in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tide.data import Counts, Manifest, ShardedExamples, open_source
from tide.preparation.held_out import check_held_out
from tide.preparation.parts import build_part, builder_of, pairing_of, student_builder
from tide.preparation.prepare import Preparation, fingerprints, layout_options, nothing_kept

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tide.batch import Example
    from tide.config import Recipe
    from tide.preparation.tokenizers import Tokenizers


class TrainingData(NamedTuple):
    """What a run trains on.

    Attributes:
        examples: in the mixture's order.
        counts: of rows kept and dropped.
        fingerprint: hash of everything that training reads of the examples.
    """

    examples: Sequence[Example] | ShardedExamples
    counts: Counts
    fingerprint: str


def training_data(recipe: Recipe, tokenizers: Tokenizers) -> TrainingData:
    """The recipe's examples for both sides of its method.

    Args:
        recipe: with `data.prepared`, shards are read; without, its sources are.
        tokenizers: of its method.
    Raises:
        ValueError: the shards are not there, or were made with another tokenizer or other lengths; or no row
            makes an example.
    """
    if recipe.data.prepared is not None:
        directory = Path(recipe.data.prepared).expanduser()
        manifest = Manifest.read(directory)
        _check_manifest(manifest, recipe, tokenizers)
        examples = manifest.examples(directory, shared=pairing_of(recipe) == "same")
        return TrainingData(examples, manifest.counts, manifest.fingerprint)
    preparation = Preparation.of(recipe, tokenizers=tokenizers)
    preparation.check_templates()
    mixture = preparation.mixture
    part = build_part(mixture.read(preparation.sources, 0, len(mixture)), builder_of(recipe, tokenizers))
    if not part.examples:
        raise ValueError(nothing_kept(part.counts))
    return TrainingData(part.examples, part.counts, _fingerprint(part.examples))


def held_out_examples(recipe: Recipe, tokenizers: Tokenizers) -> list[Example]:
    """The student's side of `data.held_out`; empty where the recipe names none.

    Args:
        recipe: its lengths.
        tokenizers: the student's is used.
    Raises:
        ValueError: the source is not there, it is trained on, or no row makes an example.
    """
    if recipe.data.held_out is None:
        return []
    check_held_out(recipe)
    source = open_source(recipe.data.held_out, split=recipe.data.held_out_split)
    part = build_part(source.rows(range(len(source))), student_builder(recipe, tokenizers))
    if not part.examples:
        raise ValueError(nothing_kept(part.counts))
    return part.examples


def _fingerprint(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        for side in filter(None, (example.student, example.teacher)):
            for tensor in (side.token_ids, side.maskable, side.chunks):
                digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _check_manifest(manifest: Manifest, recipe: Recipe, tokenizers: Tokenizers) -> None:
    where = f"the data in {recipe.data.prepared!r}"
    if pairing_of(recipe) == "cross" and manifest.plan.sides != "both":
        raise ValueError(
            f"prepared data: method {recipe.method} needs chunks of two tokenizers, and {where} has the "
            "student's tokens alone. Run `tide prepare` with this recipe and another data.prepared."
        )
    for role, fingerprint in fingerprints(recipe, tokenizers).items():
        there = manifest.plan.tokenizers.get(role)
        if there != fingerprint:
            raise ValueError(
                f"prepared data: {where} was made with another {role} tokenizer ({str(there)[:12]}..., this "
                f"one is {fingerprint[:12]}...): its ids mean something else. Run `tide prepare` with this "
                "recipe and another data.prepared."
            )
    wanted = layout_options(recipe)
    changed = {
        key: manifest.plan.options.get(key) for key in wanted if manifest.plan.options.get(key) != wanted[key]
    }
    if changed:
        there_here = ", ".join(f"{key} {there!r} (here {wanted[key]!r})" for key, there in changed.items())
        raise ValueError(
            f"prepared data: {where} was made with {there_here}. Run `tide prepare` with this recipe and "
            "another data.prepared, or use the recipe that it was made with."
        )
