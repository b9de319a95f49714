"""The types of a recipe's values, and their names in errors and in `tide recipe`."""

from __future__ import annotations

import difflib
import re
import types
import typing
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.fields import FieldInfo

from tide.config.problem import shown
from tide.config.records import Record

if TYPE_CHECKING:
    from typing_extensions import Self

FLOAT_PATTERN = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z")
WHOLE_DIGITS = 18  # YAML integers of more digits are read as floats, to stay within int64
SHOWN_KEYS = 4  # keys named for a section that requires none


class Section(Record):
    """A section of a recipe."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy with some values replaced; the copy is checked."""
        return type(self)(**{**dict(self), **(update or {})})

    @classmethod
    @cache
    def kinds(cls) -> dict[str, Kind]:
        """The kinds of its keys."""
        return {
            name: Kind.of(
                Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
            )
            for name, field in cls.model_fields.items()
        }


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank; give a value")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError("must be one line of plain text; remove the control characters")
    return text


def _number_of_text(value: object) -> object:
    """Read quoted numbers, and those that YAML 1.1 readers take for text (5e-5)."""
    return float(value) if isinstance(value, str) and FLOAT_PATTERN.match(value) else value


def _check_named_values(values: dict[str, Any]) -> dict[str, str | int | float | bool]:
    for name, value in values.items():
        if not isinstance(value, (str, int, float, bool)):
            raise ValueError(f"expected a text, number, true or false for {shown(name)}")
        if not isinstance(value, str) and not -(10**WHOLE_DIGITS) < value < 10**WHOLE_DIGITS:
            raise ValueError(
                f"a number is finite, with at most {WHOLE_DIGITS} digits before the point; quote it if text"
            )
    return values


Text = Annotated[str, AfterValidator(_check_text)]
Number = Annotated[float, BeforeValidator(_number_of_text), Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
InnerFraction = Annotated[Number, Field(gt=0, lt=1)]
NamedValues = Annotated[dict[str, Any], AfterValidator(_check_named_values)]

_TYPES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list of text",
    dict: "names with a text, number, true or false each",
}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class Kind:
    """The values that a key takes; its text names them: "a whole number of at least 1".

    Attributes:
        annotation: the annotation of the key, with its bounds.
        type: str, int, float, bool, list, dict or a section.
        item: the section that each item of a list is.
        words: the only ones, if not empty.
        bounds: of a number, in words.
    """

    annotation: Any
    type: Any
    item: type[Section] | None
    words: tuple[str, ...]
    bounds: tuple[str, ...]
    nullable: bool

    @classmethod
    def of(cls, annotation: Any) -> Kind:
        """Read an annotation."""
        inner, bounds, nullable = annotation, [], False
        while (origin := typing.get_origin(inner)) in (Annotated, typing.Union, types.UnionType):
            inner, *extras = typing.get_args(inner)
            for extra in extras:
                nullable = nullable or extra is type(None)
                for one in extra.metadata if isinstance(extra, FieldInfo) else (extra,):
                    bounds += [
                        f"{word} {getattr(one, name)}" for name, word in _BOUNDS.items() if hasattr(one, name)
                    ]
        arguments = typing.get_args(inner)
        words = arguments if origin is Literal else ()
        item = arguments[0] if origin is list and Kind.of(arguments[0]).is_section else None
        return cls(annotation, str if words else origin or inner, item, words, tuple(bounds), nullable)

    @property
    def is_section(self) -> bool:
        """True for a section, null or not."""
        return isinstance(self.type, type) and issubclass(self.type, Section)

    def child(self, key: str) -> Kind | None:
        """The kind of a key of a section, or of an item of a list of sections."""
        if self.item is not None:
            return Kind.of(self.item)
        return self.type.kinds().get(key) if self.is_section else None

    def __str__(self) -> str:
        if self.is_section:
            keys = self.type.model_fields
            names = [name for name, field in keys.items() if field.is_required()] or list(keys)[:SHOWN_KEYS]
            return f"a section of keys ({', '.join(names)})"
        if self.item is not None:
            return f"a list, each item {Kind.of(self.item)}"
        name = f"one of {', '.join(self.words)}" if self.words else _TYPES[self.type]
        if self.bounds:
            name += f"{' of' if self.bounds[0].startswith('at') else ''} {' and '.join(self.bounds)}"
        return f"{name} or null" if self.nullable else name

    def remedy(self, value: object) -> str:
        """The remedy for a value of another kind, or an empty text."""
        if self.words:
            near = difflib.get_close_matches(value.lower(), self.words, n=1) if isinstance(value, str) else []
            return f"nearest: {near[0]}" if near else ""
        if self.is_section:
            return "write them under it, one a line"
        if self.item is not None:
            return "begin each item with a dash"
        if value is None:
            return "give a value, or leave the key out"
        if self.type is str and isinstance(value, (bool, int, float)):
            return "quote it if it is text"
        if self.type is list and isinstance(value, str):
            return f"write [{shown(value)}]"
        if self.type is int and isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
            return f"write {value:.0f}"
        return ""
