"""tide recipe [KEY]: the keys of a recipe."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tide.cli.subparsers import Subparsers


def add_parser(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "recipe",
        help="list the keys of a recipe",
        description="List the keys of a recipe with their types, defaults and meanings.",
    )
    parser.add_argument(
        "key", metavar="KEY", nargs="?", default="", help="a section or key, such as training or training.lr"
    )
    parser.add_argument("--markdown", action="store_true", help="print docs/recipe.md")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from tide.config.reference import as_markdown, as_text

    print(as_markdown() if arguments.markdown else as_text(arguments.key))
    return 0
