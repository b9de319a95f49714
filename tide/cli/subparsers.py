"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import sys
from os.path import expanduser
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

# The status of a program that SIGINT, SIGPIPE or SIGTERM ended.
INTERRUPTED, UNREAD, TERMINATED = 130, 141, 143


def count(text: str, most: int = 10**9) -> int:
    """Read an option's whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    if number > most:
        raise argparse.ArgumentTypeError(f"expected at most {most:,}, got {text!r}")
    return number


def length(text: str) -> int:
    """Read a number of tokens of one text, which is held whole."""
    return count(text, most=2**20)


def add_recipe(parser: argparse.ArgumentParser, example: str) -> None:
    """Add a recipe and its overrides, with one as an example."""
    parser.add_argument("recipe", metavar="RECIPE.yaml", type=expanduser)
    parser.add_argument(
        "overrides", nargs="*", default=(), metavar="key=value", help=f"such as {example}; see `tide recipe`"
    )


def add_dtype(parser: argparse.ArgumentParser, *, default: str | None, meaning: str) -> None:
    """Add the type of the weights that a command writes."""
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default=default,
        help=f"of the weights (default: {meaning})",
    )


def to_stderr(line: str) -> None:
    """Print a line to the standard error."""
    print(line, file=sys.stderr, flush=True)


def status_log(command: str) -> Callable[[str], None]:
    """A callback that prints status lines of a command to the standard error."""
    return lambda line: to_stderr(f"tide {command}: {line}")
