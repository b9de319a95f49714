"""One value of a recipe: what its field declares, and the value in that type or what is wrong with it."""

from __future__ import annotations

import difflib
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn, cast

from tide.config.document import FLOAT_PATTERN
from tide.config.problem import shown

WHOLE_DIGITS = 18  # of a whole number in a recipe; one of more would be read as a fraction


@dataclass(frozen=True)
class Interval:
    """The numbers that a field admits; `above` and `below` leave their end out."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __contains__(self, number: float) -> bool:
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        ends = {
            "at least": self.at_least,
            "above": self.above,
            "at most": self.at_most,
            "below": self.below,
        }
        return " and ".join(f"{word} {end}" for word, end in ends.items() if end is not None)


@dataclass(frozen=True)
class Words:
    """The words that a text field admits."""

    words: tuple[str, ...]


class Wrong(Exception):
    """A value that its field does not take; the message names rule, value and remedy."""


@dataclass(frozen=True)
class Field:
    """What a field declares.

    Attributes:
        kind: str, int, float, bool, list (of text) or dict (of text to text, numbers and flags).
        words: the only ones a text may be, if not empty.
    """

    kind: type
    nullable: bool
    required: bool
    default: object
    words: tuple[str, ...] = ()
    interval: Interval | None = None

    def __str__(self) -> str:
        names = {
            str: "text",
            int: "a whole number",
            float: "a number",
            bool: "true or false",
            list: "a list of text",
            dict: "names with a text, number, true or false each",
        }
        name = "one of " + ", ".join(self.words) if self.words else names[self.kind]
        return f"{name} or null" if self.nullable else name

    def read(self, value: object) -> object:
        """The value in its declared type; a list is copied.

        Raises:
            Wrong: the field does not take it.
        """
        if value is None:
            if self.nullable:
                return None
            self._reject(value, "give a value" if self.required else "give a value, or leave the key out")
        if self.words:
            return self._word(value)
        readers = {
            list: self._texts,
            dict: self._named_values,
            bool: self._flag,
            str: self._text,
            int: self._integer,
            float: self._number,
        }
        return readers[self.kind](value)

    def _reject(self, value: object, remedy: str) -> NoReturn:
        raise Wrong(f"expected {self}, got {shown(value)}" + (f"; {remedy}" if remedy else ""))

    def _word(self, value: object) -> object:
        if value in self.words:
            return value
        near = difflib.get_close_matches(value.lower(), self.words, n=1) if isinstance(value, str) else []
        self._reject(value, f"nearest: {near[0]}" if near else "")

    def _flag(self, value: object) -> bool:
        if not isinstance(value, bool):
            self._reject(value, "write true or false, without quotes")
        return value

    def _text(self, value: object) -> str:
        if not isinstance(value, str):
            plain = isinstance(value, (bool, int, float))
            self._reject(value, "put it in quotes if it is meant as text" if plain else "give one text")
        if not value.strip():
            raise Wrong(f"must not be blank, got {shown(value)}; give a value")
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
            raise Wrong(f"must be one line of plain text, got {shown(value)}; remove the control characters")
        return value

    def _texts(self, value: object) -> list[str]:
        if isinstance(value, str):
            self._reject(value, f"write [{shown(value)}]")
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            self._reject(value, "write [one, two], or [] for none")
        return [self._text(item) for item in value]

    def _named_values(self, value: object) -> dict[str, str | int | float | bool]:
        if not isinstance(value, Mapping):
            self._reject(value, "write name: value under it, one a line, or {} for none")
        for name, item in value.items():
            given = f"{shown(name)}: {shown(item)}"
            if not isinstance(name, str) or not isinstance(item, (str, int, float, bool)):
                raise Wrong(f"expected {self}, got {given}")
            if not isinstance(item, str) and not -(10**WHOLE_DIGITS) < item < 10**WHOLE_DIGITS:
                raise Wrong(
                    f"a number is finite, with at most {WHOLE_DIGITS} digits before the point; got {given}. "
                    "Put it in quotes if it is meant as text"
                )
        return dict(value)

    def _integer(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
            self._reject(value, f"write {value:.0f}" if whole else "write it in digits, such as 100")
        self._bound(value, value)
        return value

    def _number(self, value: object) -> float:
        # YAML 1.1 readers hand 5e-5 over as text, and so does who quotes it.
        numeric = isinstance(value, (int, float)) or (isinstance(value, str) and FLOAT_PATTERN.match(value))
        if isinstance(value, bool) or not numeric:
            self._reject(value, "write it as 0.1, 5 or 5e-5")
        try:
            number = float(cast("float | str", value))
        except OverflowError:  # an integer of Python has no largest
            number = math.inf
        if not math.isfinite(number):
            self._reject(value, "give a finite number")
        self._bound(number, value)
        return number

    def _bound(self, number: float, value: object) -> None:
        if self.interval is not None and number not in self.interval:
            raise Wrong(f"must be {self.interval}, got {value}")
