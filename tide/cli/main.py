"""tide COMMAND: the command line. Each command's module adds its arguments and runs it."""

from __future__ import annotations

import argparse
import os
import re
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from tide._version import __version__
from tide.cli import align, convert, distill, export, prepare, recipe, sample
from tide.cli.faults import Terminated, is_expected, terminated_by_signal, unexpected
from tide.cli.subparsers import INTERRUPTED, TERMINATED, UNREAD

if TYPE_CHECKING:
    from collections.abc import Sequence

NEEDS_TRANSFORMERS = (5, 17)  # of every command that reads a tokenizer; the losses alone take older ones
_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z0-9_]+)*=")


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    top = argparse.ArgumentParser(prog="tide", description="Distil diffusion language models.")
    top.add_argument("--version", action="version", version=f"tide {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (recipe, prepare, distill, sample, align, convert, export):
        command.add_parser(commands)
    for one in commands.choices.values():
        one.set_defaults(parser=one)  # its usage belongs to errors that `main` finds
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 done, 1 an unexpected error, 2 bad input or a place that cannot be read or written
        (one line per problem), 130 interrupted, 141 nobody reads
        the output, 143 terminated.
    """
    parsed, rest = parser().parse_known_args(arguments)
    _take_overrides(parsed, rest)
    try:
        with terminated_by_signal():
            if parsed.command != "recipe":
                _check_transformers(version("transformers"))
            status: int = parsed.run(parsed)
            sys.stdout.flush()
        return status
    except KeyboardInterrupt as stop:
        remedy = getattr(parsed, "when_interrupted", "")
        terminated = isinstance(stop, Terminated)
        how = "terminated" if terminated else "interrupted"
        print(f"\ntide {parsed.command}: {how}{remedy and '. '}{remedy}", file=sys.stderr)
        return TERMINATED if terminated else INTERRUPTED
    except Exception as error:
        _drop_output()
        if isinstance(error, BrokenPipeError):  # the reader of the output is gone, which is not bad input
            return UNREAD
        expected = is_expected(error)
        # Functions begin their errors with their name, which may be the command's.
        for line in (str(error) if expected else unexpected(parsed.command, error)).splitlines():
            print(f"tide {parsed.command}: {line.removeprefix(f'{parsed.command}: ')}", file=sys.stderr)
        return 2 if expected else 1


def _drop_output() -> None:
    """Discard what the standard output does not take; Python would try, and fail, again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_transformers(installed: str) -> None:
    if tuple(map(int, installed.split(".")[:2])) < NEEDS_TRANSFORMERS:
        needed = ".".join(map(str, NEEDS_TRANSFORMERS))
        raise ValueError(
            f"transformers {installed} is too old for the command. In an environment of its own, run "
            f'pip install "transformers>={needed}".'
        )


def _take_overrides(parsed: argparse.Namespace, rest: Sequence[str]) -> None:
    """Take key=value texts that argparse leaves after an option as overrides; anything else is an error."""
    overrides = getattr(parsed, "overrides", None)
    unknown = [text for text in rest if overrides is None or text.startswith("-") or "=" not in text]
    text = getattr(parsed, "text", None) or ""
    if unknown and not unknown[0].startswith("-") and _OVERRIDE.match(text):
        parsed.parser.error(
            f"{parsed.command} takes no overrides, such as {text}, and one text at most; change the recipe, "
            "or use the options"
        )
    if unknown:
        parsed.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if overrides is not None:
        parsed.overrides = [*overrides, *rest]


if __name__ == "__main__":
    sys.exit(main())
