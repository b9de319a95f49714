"""The examples of a run: shards that `tide prepare` wrote, or prepared in memory; and held-out examples."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tide.config import SourceConfig, at_key, differences
from tide.data import ShardedExamples, files_at, open_source
from tide.methods import METHODS
from tide.preparation.examples import ExampleBuilder, Part, build_part, no_examples
from tide.preparation.manifest import MANIFEST_FILE, Counts, Manifest
from tide.preparation.plan import Preparation, example_builder, fingerprints, layout_options, mixing_options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tide.batch import Example
    from tide.config import Recipe
    from tide.contract import Contract
    from tide.preparation.tokenizers import Tokenizers


class TrainingData(NamedTuple):
    """Examples in the mixture's order, counts of their rows, and a hash of all that training reads."""

    examples: Sequence[Example] | ShardedExamples
    counts: Counts
    fingerprint: str


def training_data(recipe: Recipe, tokenizers: Tokenizers) -> TrainingData:
    """Open the shards in `data.prepared`, or prepare the recipe's sources in memory.

    A recipe that names no source takes the shards of any.

    Raises:
        ValueError: the shards are missing, were changed, or were made from other sources, with another
            tokenizer or other lengths; or no row makes an example.
    """
    if recipe.data.prepared is not None:
        directory = Path(recipe.data.prepared)
        if not recipe.data.mixture and not (directory / MANIFEST_FILE).is_file():
            raise ValueError(
                f"prepared data: {str(directory)!r} holds none that is finished, and the recipe names "
                "neither data.train nor data.sources to prepare. Correct data.prepared, or name one of them "
                "and run `tide prepare`."
            )
        manifest = Manifest.read(directory)
        _check_manifest(manifest, recipe, tokenizers)
        shared = METHODS[recipe.method].teacher == "shared"
        examples = manifest.examples(directory, shared=shared)
        return TrainingData(examples, manifest.counts, manifest.fingerprint)
    preparation = Preparation.of(recipe, tokenizers=tokenizers)
    preparation.check_templates()
    rows = preparation.mixture.read(preparation.sources, 0, len(preparation.mixture))
    part = _kept(build_part(rows, preparation.builder), preparation.where)
    return TrainingData(part.examples, part.counts, _fingerprint(part.examples))


def held_out_examples(
    recipe: Recipe, tokenizers: Tokenizers, teacher: Contract | None = None
) -> list[Example]:
    """Make the student's side of `data.held_out`; empty where the recipe names none.

    Args:
        recipe, tokenizers: of the run.
        teacher: its contract makes the same rows as the teacher reads them: its tokens, template, length and
            blocks, in the place of the student's.
    Raises:
        ValueError: the source is missing, it is trained on, or no row makes an example.
    """
    if recipe.data.held_out is None:
        return []
    _check_held_out(recipe)
    with at_key("data.held_out"):
        source = open_source(recipe.data.held_out, split=recipe.data.held_out_split)
    builder, length_key = example_builder(recipe, tokenizers, "none"), "data.max_length"
    if teacher is not None:
        assert tokenizers.teacher is not None and recipe.teacher is not None
        own: dict[str, object] = {"max_length": recipe.data.teacher_length}
        if teacher.autoregressive:
            own["end_fill"] = "none"
        builder = ExampleBuilder(
            recipe.data.model_copy(update=own),
            METHODS["none"],
            tokenizers.teacher,
            block_size=teacher.block_size or recipe.masking.block_size,
            template_arguments={"student": recipe.teacher.template_arguments},
        )
        length_key = "data.teacher_max_length"
    part = build_part(source.rows(range(len(source))), builder)
    return _kept(part, source.where, length_key=length_key).examples


def _kept(part: Part, where: Callable[[int], str], *, length_key: str = "data.max_length") -> Part:
    if not part.examples:
        at = min(part.rejected)
        raise no_examples(part.counts, where(at), part.rejected[at], length_key=length_key)
    return part


def _fingerprint(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        for side in filter(None, (example.student, example.teacher)):
            for tensor in (side.token_ids, side.loss_mask, side.chunks):
                digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _check_manifest(manifest: Manifest, recipe: Recipe, tokenizers: Tokenizers) -> None:
    where, plan = f"the data in {recipe.data.prepared!r}", manifest.plan
    if METHODS[recipe.method].across_tokenizers and plan.sides != "both":
        raise ValueError(
            f"prepared data: method {recipe.method} needs chunks of two tokenizers, and {where} has the "
            "student's tokens alone. Run `tide prepare` with this recipe and another data.prepared."
        )
    for role, fingerprint in fingerprints(recipe, tokenizers).items():
        made_with = plan.tokenizers.get(role)
        if made_with != fingerprint:
            raise ValueError(
                f"prepared data: {where} was made with another {role} tokenizer ({str(made_with)[:12]}..., "
                f"this one is {fingerprint[:12]}...), so its ids differ. Run `tide prepare` with this recipe "
                "and another data.prepared."
            )
    layout = layout_options(recipe)
    wanted, made = layout, plan.options
    if recipe.data.mixture:
        sources = [source.model_dump() for source in recipe.data.mixture]
        wanted = wanted | mixing_options(recipe) | {"sources": sources}
        # What else a plan holds of a source is no key of the recipe.
        named = [{name: source.get(name) for name in SourceConfig.model_fields} for source in plan.sources]
        made = made | {"sources": named}
    # Other options of the plan are of no consequence to this method.
    changed = differences({name: made.get(name) for name in wanted}, wanted)
    if not changed:
        return
    listed = ", ".join(f"{key} {there!r} (here {here!r})" for key, (there, here) in changed.items())
    remedy = "or use the recipe that it was made with."
    if not layout.keys() & {key.split(".")[0] for key in changed}:
        remedy += " To train on it whatever its rows are, name neither data.train nor data.sources."
    raise ValueError(
        f"prepared data: {where} was made with {listed}. Run `tide prepare` with this recipe and "
        f"another data.prepared, {remedy}"
    )


def _check_held_out(recipe: Recipe) -> None:
    """Refuse a held-out file that is read for training, by whatever path, glob or directory.

    A recipe that names prepared data and no source trains on the sources that those were made from. Data sets
    of the hub have no files here; the recipe's own checks compare them.
    """
    data = recipe.data
    assert data.held_out is not None
    with at_key("data.held_out"):
        found = files_at(data.held_out, split=data.held_out_split)
    held_out = {os.path.realpath(file): file for file in found}
    sources = [source.model_dump() for source in data.mixture]
    if not sources and data.prepared is not None:
        directory = Path(data.prepared)
        sources = Manifest.read(directory).plan.sources if (directory / MANIFEST_FILE).is_file() else []
    for source in sources:
        path = str(source.get("path"))
        try:
            files = files_at(path, split=str(source.get("split")))
        except ValueError:  # of prepared data the shards may be all that is left
            continue
        both = held_out.keys() & set(map(os.path.realpath, files))
        if both:
            raise ValueError(
                f"held_out_examples: {str(held_out[min(both)])!r} is held out and trained on (the source "
                f"{path!r}), so it would measure memory. Give data.held_out other text or another "
                "data.held_out_split, take the file out of the source, or set data.held_out: null."
            )
