"""tide COMMAND: the command line. Each command's module adds its arguments and runs it."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING

from tide._version import __version__
from tide.cli import align, convert, distill, export, prepare, recipe, sample
from tide.cli.subparsers import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        The exit status: 0 done, 2 bad input (one line per problem), 130 interrupted.
    """
    parsed, rest = parser().parse_known_args(arguments)
    _take_overrides(parsed, rest)
    try:
        status: int = parsed.run(parsed)
    except BrokenPipeError:  # the reader of the output is gone, which is not bad input
        raise
    except (ValueError, OSError) as error:
        for line in str(error).splitlines():
            # Functions begin their errors with their name, which may be the command's.
            print(f"tide {parsed.command}: {line.removeprefix(f'{parsed.command}: ')}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        remedy = getattr(parsed, "when_interrupted", "")
        print(f"\ntide {parsed.command}: interrupted{remedy and '. '}{remedy}", file=sys.stderr)
        return INTERRUPTED
    return status


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
