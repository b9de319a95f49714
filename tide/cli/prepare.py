"""tide prepare RECIPE.yaml [key=value ...]: text to aligned shards, once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tide.cli.subparsers import add_recipe, count, status_log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tide.cli.subparsers import Subparsers
    from tide.preparation import Manifest


def add_parser(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "prepare",
        help="render, tokenize and align a recipe's data, once",
        description="Write the examples of a recipe's data, as shards with a manifest, to data.prepared; "
        "`tide distill` with the same recipe reads them. An interrupted preparation goes on where it "
        "stopped. The number of workers does not change the files.",
    )
    add_recipe(parser, "data.prepared=runs/data")
    parser.add_argument("--workers", type=count, default=None, help="processes; one per processor by default")
    parser.add_argument(
        "--overwrite", action="store_true", help="remove the shards of another recipe from data.prepared"
    )
    parser.set_defaults(run=run, when_interrupted="Run the same command again to go on.")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from tide.config import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    from tide.preparation import ShardDirectory, prepare

    manifest = prepare(
        recipe,
        workers=arguments.workers,
        overwrite=arguments.overwrite,
        progress=True,
        log=status_log("prepare"),
    )
    num_shards = len(manifest.shards)
    counts = manifest.counts
    print(
        f"{recipe.data.prepared}: {counts.in_a_line}, {num_shards} shard{'s' if num_shards > 1 else ''}",
        *counts.rejected_in_lines,
        sep="\n",
    )
    if counts.rejected:
        assert recipe.data.prepared is not None
        rejects = ShardDirectory(Path(recipe.data.prepared)).rejects_glob()
        print(f"  rejected rows and their faults: {rejects}")
    if len(manifest.sources) > 1:
        _print_sources(manifest)
    return 0


def _print_sources(manifest: Manifest) -> None:
    names = [_name(source) for source in manifest.plan.sources]
    width, digits = max(map(len, names)), len(f"{manifest.counts.rows:,}")
    for name, counts in zip(names, manifest.sources, strict=True):
        numbers = {"rows": counts.rows, "kept": counts.kept, "rejected": counts.rejected}
        columns = (f"{number:>{digits},} {noun}" for noun, number in numbers.items())
        print(f"  {name:<{width}}  {',  '.join(columns)}")


def _name(source: Mapping[str, Any]) -> str:
    """A source's path, subset, split and filter."""
    parts = [source["path"], source["subset"], None if source["split"] == "train" else source["split"]]
    if source["answer_contains"] is not None:
        parts.append(repr(source["answer_contains"]))
    return " ".join(part for part in parts if part is not None)
