"""tide prepare RECIPE.yaml [key=value ...]: text to aligned shards, once."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tide.cli.subparsers import Subparsers


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "prepare",
        help="render, tokenize and align a recipe's data, once",
        description="Write the examples of a recipe's data, as shards with a manifest, to data.prepared; "
        "`tide distill` with the same recipe reads them. An interrupted preparation goes on where it "
        "stopped. The files are the same bytes whatever the number of workers.",
    )
    parser.add_argument("recipe", metavar="RECIPE.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.prepared=runs/data")
    parser.add_argument("--workers", type=int, default=None, help="processes; one per processor by default")
    parser.add_argument(
        "--overwrite", action="store_true", help="remove what another recipe prepared in data.prepared"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    from tide.config import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if arguments.workers is not None and arguments.workers < 1:
        raise ValueError(f"prepare: --workers must be at least 1, got {arguments.workers}")
    from tide.preparation import prepare

    manifest = prepare(recipe, workers=arguments.workers, overwrite=arguments.overwrite, progress=True)
    num_shards = len(manifest.shards)
    print(f"{recipe.data.prepared}: {manifest.counts}, {num_shards} shard{'s' if num_shards > 1 else ''}")
    return 0
