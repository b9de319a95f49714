"""The examples of a run: shards that `tide prepare` wrote, or prepared in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tide.config import SourceConfig, at_key
from tide.data import MANIFEST_FILE, Counts, Manifest, ShardedExamples, different_keys, open_source
from tide.preparation.held_out import check_held_out
from tide.preparation.parts import build_part, builder_of, nothing_kept, pairing_of, student_builder
from tide.preparation.recipe_data import Preparation, fingerprints, layout_options, mixing_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        recipe: with `data.prepared`, shards are read; without, its sources are. One that names no source
            takes the shards of any.
        tokenizers: of its method.
    Raises:
        ValueError: the shards are not there, were made from other sources, with another tokenizer or other
            lengths, or are not what was prepared; or no row makes an example.
    """
    if recipe.data.prepared is not None:
        directory = Path(recipe.data.prepared).expanduser()
        if not recipe.data.mixture and not (directory / MANIFEST_FILE).is_file():
            raise ValueError(
                f"prepared data: {str(directory)!r} holds none that is finished, and the recipe names "
                "neither data.train nor data.sources to prepare. Correct data.prepared, or name one of them "
                "and run `tide prepare`."
            )
        manifest = Manifest.read(directory)
        _check_manifest(manifest, recipe, tokenizers)
        examples = manifest.examples(directory, shared=pairing_of(recipe) == "same")
        return TrainingData(examples, manifest.counts, manifest.fingerprint)
    preparation = Preparation.of(recipe, tokenizers=tokenizers)
    preparation.check_templates()
    mixture = preparation.mixture
    part = build_part(mixture.read(preparation.sources, 0, len(mixture)), builder_of(recipe, tokenizers))
    if not part.examples:
        at, reject = next(iter(part.rejects.items()))
        raise ValueError(nothing_kept(part.counts, (mixture.where(preparation.sources, at), reject)))
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
    with at_key("data.held_out"):
        source = open_source(recipe.data.held_out, split=recipe.data.held_out_split)
    part = build_part(source.rows(range(len(source))), student_builder(recipe, tokenizers))
    if not part.examples:
        at, reject = next(iter(part.rejects.items()))
        raise ValueError(nothing_kept(part.counts, (source.where(at), reject)))
    return part.examples


def _fingerprint(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        for side in filter(None, (example.student, example.teacher)):
            for tensor in (side.token_ids, side.loss_mask, side.chunks):
                digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _check_manifest(manifest: Manifest, recipe: Recipe, tokenizers: Tokenizers) -> None:
    where, plan = f"the data in {recipe.data.prepared!r}", manifest.plan
    if pairing_of(recipe) == "cross" and plan.sides != "both":
        raise ValueError(
            f"prepared data: method {recipe.method} needs chunks of two tokenizers, and {where} has the "
            "student's tokens alone. Run `tide prepare` with this recipe and another data.prepared."
        )
    for role, fingerprint in fingerprints(recipe, tokenizers).items():
        there = plan.tokenizers.get(role)
        if there != fingerprint:
            raise ValueError(
                f"prepared data: {where} was made with another {role} tokenizer ({str(there)[:12]}..., this "
                f"one is {fingerprint[:12]}...): its ids mean something else. Run `tide prepare` with this "
                "recipe and another data.prepared."
            )
    layout, mixing = layout_options(recipe), mixing_options(recipe)
    rows: dict[str, object] = {}
    rows_made: dict[str, object] = {}
    if recipe.data.mixture:
        rows = _declared([source.model_dump() for source in recipe.data.mixture]) | mixing
        rows_made = _declared(plan.sources) | {key: plan.options.get(key) for key in mixing}
    wanted = layout | rows
    made = {key: plan.options.get(key) for key in layout} | rows_made
    changed = different_keys(made, wanted)
    if not changed:
        return
    made_here = ", ".join(f"{key} {made.get(key)!r} (here {wanted.get(key)!r})" for key in changed)
    remedy = "or use the recipe that it was made with."
    if not layout.keys() & set(changed):
        remedy += " To train on it whatever its rows are, name neither data.train nor data.sources."
    raise ValueError(
        f"prepared data: {where} was made with {made_here}. Run `tide prepare` with this recipe and "
        f"another data.prepared, {remedy}"
    )


def _declared(sources: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """What a recipe says of its sources, by dotted key; what stands in a plan beside it is left out."""
    names = SourceConfig.model_fields
    return {f"sources.{at}.{name}": source.get(name) for at, source in enumerate(sources) for name in names}
