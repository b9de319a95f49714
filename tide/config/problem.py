"""What is wrong with a recipe, where it was written, and the one error that carries it all."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_LONGEST_VALUE = 60  # characters of a value that a one-line message can afford


@dataclass(frozen=True)
class Place:
    """Where a value was written: a file and line (from 1), an override, or Python."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """One line for the reader: place, full dotted key ("" for the recipe as a whole), rule, value, remedy."""

    place: Place
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.key}: {self.message}" if self.key else f"{self.place}: {self.message}"


class RecipeError(ValueError):
    """Everything that is wrong with a recipe, one line per problem, in the order of the file.

    Attributes:
        problems: the same as records, for tools that want the key or the line.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        ordered = sorted(problems, key=lambda problem: problem.place.line or math.inf)
        self.problems: tuple[Problem, ...] = tuple(ordered)
        # The records themselves are the argument: an exception is pickled as its class and arguments.
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def shown(value: object) -> str:
    """Quote a value in an error: one line, cut short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _cut(repr(value))


def printable(key: str) -> str:
    """A key as an error shows it: bare, unless that would break or widen the line."""
    return key if key.isprintable() and len(key) <= _LONGEST_VALUE else _cut(repr(key))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
