"""Problems of a recipe with their places, and the error that carries them all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_LONGEST_VALUE = 60  # characters of a value in a message


@dataclass(frozen=True)
class Place:
    """Where a value was written: a file and line (from 1), an override, or Python."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """One line: place, dotted key ("" for the whole recipe), rule, value and remedy."""

    place: Place
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.key}: {self.message}" if self.key else f"{self.place}: {self.message}"


class RecipeError(ValueError):
    """All problems of a recipe, one per line, in the order of the file.

    Attributes:
        problems: the same as records, with key and line.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        ordered = sorted(problems, key=lambda problem: problem.place.line or math.inf)
        self.problems: tuple[Problem, ...] = tuple(ordered)
        # An exception is pickled as its class and arguments.
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


@contextmanager
def at_key(key: str) -> Iterator[None]:
    """Begin the errors from within with a key.

    Args:
        key: the dotted key, or a command's option, whose value is used within.
    Raises:
        ValueError: for a ValueError or OSError from within, with its message after the key.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"{key}: {error}") from error


def shown(value: object) -> str:
    """Quote a value in an error: one line, cut short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _cut(repr(value))


def dotted(path: Iterable[str]) -> str:
    """A path of keys in an error; those that would break or widen the line are quoted."""
    return ".".join(
        key if key.isprintable() and len(key) <= _LONGEST_VALUE else _cut(repr(key)) for key in path
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
