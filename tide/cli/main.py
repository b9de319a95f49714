"""tide COMMAND: the command line. Each command's module adds its arguments and runs it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from tide import __version__
from tide.cli import distill, quickstart, sample

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130  # What a shell reports for a program ended by SIGINT.


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    top = argparse.ArgumentParser(prog="tide", description="Distil diffusion language models.")
    top.add_argument("--version", action="version", version=f"tide {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (quickstart, distill, sample):
        command.add_parser(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit status: 0 done, 2 bad input (said in one line a problem), 130 interrupted.
    """
    parsed = parser().parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
    except ValueError as error:
        for line in str(error).splitlines():
            print(f"tide {parsed.command}: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ntide {parsed.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status


if __name__ == "__main__":
    sys.exit(main())
