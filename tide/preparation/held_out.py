"""Whether what a recipe holds out is text that it does not train on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tide.config import at_key
from tide.data import MANIFEST_FILE, Manifest, files_at

if TYPE_CHECKING:
    from tide.config import Recipe


def check_held_out(recipe: Recipe) -> None:
    """No file of `data.held_out` is read for training, by whatever path, glob or directory.

    A recipe that names prepared data and no source trains on the sources that those were made from.

    Data sets of the hub have no files here: a recipe is refused if both are one split of one of them.

    Args:
        recipe: with or without `data.held_out`. Training sources that are no longer there are passed over.
    Raises:
        ValueError: a file is both; there is no `data.held_out`, or not the split.
    """
    data = recipe.data
    if data.held_out is None:
        return
    with at_key("data.held_out"):
        found = files_at(data.held_out, split=data.held_out_split)
    held_out = {os.path.realpath(file): file for file in found}
    for path, split in _trained_on(recipe):
        try:
            files = files_at(path, split=split)
        except ValueError:  # of prepared data the shards may be all that is left
            continue
        both = held_out.keys() & set(map(os.path.realpath, files))
        if both:
            raise ValueError(
                f"held_out_examples: {str(held_out[min(both)])!r} is held out and trained on (the source "
                f"{path!r}), so it would measure memory. Give data.held_out other text or another "
                "data.held_out_split, take the file out of the source, or set data.held_out: null."
            )


def _trained_on(recipe: Recipe) -> list[tuple[str, str]]:
    """Path and split of every source."""
    data = recipe.data
    if data.mixture or data.prepared is None:
        return [(source.path, source.split) for source in data.mixture]
    directory = Path(data.prepared).expanduser()
    if not (directory / MANIFEST_FILE).is_file():
        return []
    return [(str(source["path"]), str(source["split"])) for source in Manifest.read(directory).plan.sources]
