"""Rows of text: JSON lines with `prompt` and `completion`, or with `text` alone."""

from __future__ import annotations

import json
from pathlib import Path

from tide.data.conversation import TextRow

__all__ = ["TextRow", "read_rows"]


def read_rows(path: str | Path) -> list[TextRow]:
    """Reads a JSON-lines file; blank lines are skipped.

    Args:
        path: a file whose lines are objects {"prompt": str, "completion": str} or {"text": str}; other keys
            are ignored.
    Raises:
        ValueError: the file is missing, empty, not UTF-8, or a line is not such an object; names the line.
    """
    path = Path(path)
    try:
        # Not splitlines: U+2028, U+0085 and their like may stand in a JSON string as they are.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise ValueError(
            f"read_rows: no file at {str(path)!r}. Give a JSON-lines file in data.train."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"read_rows: {str(path)!r} cannot be read as UTF-8 text ({error}). Save it as UTF-8."
        ) from error
    rows = [_parse_row(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise ValueError(f"read_rows: {str(path)!r} holds no rows. Write one JSON object a line.")
    return rows


def _parse_row(line: str, where: str) -> TextRow:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"read_rows: {where} is not JSON ({error.msg} at column {error.colno}). Write one object a line."
        ) from None
    expected = 'Expected {"prompt": ..., "completion": ...} or {"text": ...} with strings.'
    if not isinstance(value, dict):
        raise ValueError(f"read_rows: {where} is a JSON {type(value).__name__}, not an object. {expected}")
    prompt, completion = (
        ("", value["text"]) if "text" in value else (value.get("prompt"), value.get("completion"))
    )
    if not isinstance(prompt, str) or not isinstance(completion, str):
        raise ValueError(f"read_rows: {where} has keys {sorted(value)}. {expected}")
    if any("\ud800" <= character <= "\udfff" for character in prompt + completion):
        raise ValueError(
            f"read_rows: {where} has half of a surrogate pair (\\ud800 to \\udfff), which is no text. "
            "Drop the row, or write the whole character."
        )
    if not completion:
        raise ValueError(
            f"read_rows: {where} has an empty completion. Drop the row, or give it a text to learn."
        )
    return TextRow(prompt, completion)
