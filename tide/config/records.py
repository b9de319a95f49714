"""Records that are written as JSON or YAML and read back: unknown keys and wrong types are errors."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


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
