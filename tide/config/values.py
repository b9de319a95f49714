"""The types of a recipe's values, and their names in errors and in `tide recipe`."""

from __future__ import annotations

import os
import re
import typing
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter

from tide.config.problem import shown
from tide.config.records import Record

if TYPE_CHECKING:
    from typing_extensions import Self

FLOAT_PATTERN = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z")
WHOLE_DIGITS = 18  # YAML integers of more digits are read as floats, to stay within int64
LARGEST = 10**9  # of any number without an upper bound of its own
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


def _check_size(number: float) -> float:
    """Keep sums and products of sizes within int64 and fp32."""
    if number > LARGEST:
        raise ValueError(f"must be at most {LARGEST:,}; give a smaller number")
    return number


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
# "~" is the home directory, also where no shell expands it: in a file, or after key=.
PathText = Annotated[Text, AfterValidator(os.path.expanduser)]
_Size = AfterValidator(_check_size)
Count = Annotated[int, Field(ge=1), _Size]
CountOrZero = Annotated[int, Field(ge=0), _Size]
Length = Annotated[int, Field(ge=1, le=2**20)]  # tokens of one text, which is held whole
# The validator comes last, so that pydantic puts the bounds on the number that it returns.
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), _Size, BeforeValidator(_number_of_text)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), _Size, BeforeValidator(_number_of_text)]
Temperature = Annotated[float, Field(ge=0.01, le=1000), BeforeValidator(_number_of_text)]
Fraction = Annotated[float, Field(ge=0, le=1), BeforeValidator(_number_of_text)]
InnerFraction = Annotated[float, Field(gt=0, lt=1), BeforeValidator(_number_of_text)]
BelowHalf = Annotated[float, Field(gt=0, lt=0.5), BeforeValidator(_number_of_text)]
NamedValues = Annotated[dict[str, Any], AfterValidator(_check_named_values)]

# In words, by the names of JSON schema.
_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list of text",
    "object": "names with a text, number, true or false each",
    "null": "null",
}
_BOUNDS = {
    "minimum": "of at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


def section_in(annotation: Any) -> type[Section] | None:
    """The section of `Section`, `Section | None` or `list[Section]`."""
    for each in (annotation, *typing.get_args(annotation)):
        if typing.get_origin(each) is None and isinstance(each, type) and issubclass(each, Section):
            return each
    return None


def is_list(annotation: Any) -> bool:
    """True for a list of anything."""
    return typing.get_origin(annotation) is list


def takes_any_name(annotation: Any) -> bool:
    """True for `NamedValues` and `NamedValues | None`."""
    return NamedValues in (annotation, *typing.get_args(annotation))


@cache
def adapter(annotation: Any) -> TypeAdapter[Any]:
    """Pydantic's validator of an annotation."""
    return TypeAdapter(annotation)


def in_words(annotation: Any) -> str:
    """Name the values of an annotation: "a whole number of at least 1"."""
    section = section_in(annotation)
    if section is None:
        schema = adapter(annotation).json_schema()
        return " or ".join(map(_in_words, schema.get("anyOf", [schema])))
    fields = section.model_fields
    names = [name for name, field in fields.items() if field.is_required()] or list(fields)[:SHOWN_KEYS]
    return f"{'a list, each item ' if is_list(annotation) else ''}a section of keys ({', '.join(names)})"


def _in_words(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    bounds = " and ".join(f"{word} {schema[name]}" for name, word in _BOUNDS.items() if name in schema)
    return f"{_TYPES[schema['type']]} {bounds}".rstrip()
