"""Where models and tokenizers come from: a folder, or the id of a repository on the hub."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def reading(function: str, file: str, path: str, remedy: str) -> Iterator[None]:
    """Read ``file`` at ``path`` inside the block; any error becomes a ValueError of one line.

    A mistyped folder is refused first: transformers would look for it on the hub, with retries.
    """
    first, *rest = path.split("/")
    is_hub_id = not path.startswith((".", "~")) and first != "" and len(rest) <= 1
    is_hub_id &= not (rest and Path(first).is_dir())
    if not is_hub_id and not Path(path).is_dir():
        raise ValueError(
            f"{function}: no folder {path!r} here. Give a folder saved by save_pretrained (relative to the "
            "current directory; ~ is not expanded), or the id of a repository on the hub."
        )
    try:
        yield
    except Exception as error:  # OSError, ValueError, KeyError, or an error of JSON or Rust, by cause
        missing = "" if Path(path).is_dir() else f"no folder {path!r} here; "
        raise ValueError(
            f"{function}: {missing}no readable {file} at {path!r} ({first_line(error)}). Give a folder "
            f"{remedy}, or the id of a repository on the hub."
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut to 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
