"""Records that are written as JSON or YAML and read back: unknown keys and wrong types are errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Record(BaseModel):
    """Base of every such record: frozen, strict in its types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


_Record = TypeVar("_Record", bound=Record)


def decode(kind: type[_Record], text: str | bytes, *, where: str, remedy: str) -> _Record:
    """Read a record from JSON text.

    Args:
        kind: the class of the record.
        text: JSON.
        where: the file, to begin an error with.
        remedy: a sentence, to end an error with.
    Raises:
        ValueError: the text is not JSON, or not such a record; names every key that is wrong.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        problems = [
            ": ".join(filter(None, [".".join(map(str, problem["loc"])), problem["msg"]]))
            for problem in error.errors(include_url=False)
        ]
        raise ValueError(f"{where}: {'; '.join(problems)}. {remedy}") from None


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """What two nested mappings of JSON values hold at the keys where they differ, in the order of the keys.

    Keys are dotted, with the numbers of list items; what is missing is None. 1, 1.0 and true differ.
    """
    pair = _flat(one), _flat(other)
    held = {key: (pair[0].get(key), pair[1].get(key)) for key in sorted(pair[0].keys() | pair[1].keys())}
    return {key: values for key, values in held.items() if json.dumps(values[0]) != json.dumps(values[1])}


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, list | tuple):
            value = {str(at): item for at, item in enumerate(value)}
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
