"""The types of a recipe's values, and their names in errors and in `tide recipe`."""

from __future__ import annotations

import difflib
import re
import types
import typing
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import annotated_types
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

_KINDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list of text",
    dict: "names with a text, number, true or false each",
}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def hint_of(field: FieldInfo) -> Any:
    """The annotation of a field, with its bounds."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _parts(hint: Any) -> tuple[Any, bool, list[str]]:
    """The type inside `Annotated` and `| None`; True if null is allowed; the bounds in words."""
    nullable, bounds = False, []
    while True:
        if typing.get_origin(hint) is Annotated:
            hint, *extras = typing.get_args(hint)
            for extra in extras:
                constraints = extra.metadata if isinstance(extra, FieldInfo) else [extra]
                bounds += [
                    f"{word} {getattr(constraint, name)}"
                    for constraint in constraints
                    for name, word in _BOUNDS.items()
                    if isinstance(constraint, annotated_types.BaseMetadata) and hasattr(constraint, name)
                ]
        elif typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) in typing.get_args(
            hint
        ):
            (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
            nullable = True
        else:
            return hint, nullable, bounds


def section_in(hint: Any) -> type[Section] | None:
    """The section that a hint names, if it is one, null or not."""
    inner = _parts(hint)[0]
    return inner if isinstance(inner, type) and issubclass(inner, Section) else None


def item_section_in(hint: Any) -> type[Section] | None:
    """The section of each item, if a hint is a list of sections."""
    inner = _parts(hint)[0]
    return section_in(typing.get_args(inner)[0]) if typing.get_origin(inner) is list else None


def words_in(hint: Any) -> tuple[str, ...]:
    """The words that a hint allows, if it is a choice of words."""
    inner = _parts(hint)[0]
    return typing.get_args(inner) if typing.get_origin(inner) is Literal else ()


def type_of(hint: Any) -> type:
    """The plain type of a value: str, int, float, bool, list or dict."""
    inner = _parts(hint)[0]
    kind: type = typing.get_origin(inner) or inner
    return kind


def kind_of(hint: Any) -> str:
    """Name what a hint allows: "a whole number of at least 1"."""
    inner, nullable, bounds = _parts(hint)
    if section := section_in(inner):
        names = [name for name, field in section.model_fields.items() if field.is_required()]
        every = list(section.model_fields)
        names = names or (every if len(every) <= SHOWN_KEYS else [*every[:SHOWN_KEYS], "..."])
        return f"a section of keys ({', '.join(names)})"
    if item := item_section_in(inner):
        return f"a list, each item {kind_of(item)}"
    words = words_in(inner)
    name = f"one of {', '.join(words)}" if words else _KINDS[type_of(inner)]
    if bounds:
        name += f"{' of' if bounds[0].startswith('at') else ''} {' and '.join(bounds)}"
    return f"{name} or null" if nullable else name


def hint_for(hint: Any, value: object) -> str:
    """A remedy for a value of the wrong kind, or an empty text."""
    expected = type_of(hint)
    if words := words_in(hint):
        near = difflib.get_close_matches(value.lower(), words, n=1) if isinstance(value, str) else []
        return f"nearest: {near[0]}" if near else ""
    if section_in(hint):
        return "write them under it, one a line"
    if item_section_in(hint):
        return "begin each item with a dash"
    if value is None:
        return "give a value, or leave the key out"
    if expected is str and isinstance(value, (bool, int, float)):
        return "quote it if it is text"
    if expected is list and isinstance(value, str):
        return f"write [{shown(value)}]"
    if expected is int and isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"write {value:.0f}"
    return ""
