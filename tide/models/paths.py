"""Places that a model or tokenizer is read from, and errors of one line for what cannot be read there."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tide.disk import ASIDE, installed_in, one_writer, others_in, writing

if TYPE_CHECKING:
    from collections.abc import Iterator


def is_gguf(path: str) -> bool:
    """True if a path names a GGUF file, which holds configuration, weights and tokenizer."""
    return path.endswith(".gguf")


def location(path: str) -> tuple[str, dict[str, str]]:
    """What transformers takes as folder or hub id, and its keyword arguments."""
    if not is_gguf(path):
        return path, {}
    return str(Path(path).parent), {"gguf_file": Path(path).name}


@contextmanager
def new_folder(function: str, folder: str) -> Iterator[Path]:
    """Give a place to write the files of a new or empty folder; they come to it together, weights last.

    Raises:
        ValueError: it is a file, or holds something.
        OSError: it cannot be written.
    """
    path = Path(folder)
    # A killed process leaves ASIDE, which the next one removes once it holds the lock.
    if path.exists() and (not path.is_dir() or set(others_in(path)) - {ASIDE}):
        raise ValueError(f"{function}: {folder!r} is not an empty folder. Give a new one.")
    with one_writer(function, path), writing(path), installed_in(path) as aside:
        yield aside


@contextmanager
def reading(function: str, file: str, path: str, remedy: str) -> Iterator[None]:
    """Read ``file`` at ``path`` inside the block; any error becomes a ValueError of one line.

    A mistyped folder is refused first: transformers would look for it on the hub, with retries.
    """
    first, *rest = path.split("/")
    is_hub_id = not path.startswith((".", "~")) and first != "" and len(rest) <= 1 and not is_gguf(path)
    is_hub_id &= not (rest and Path(first).is_dir())
    exists = Path(path).is_file() if is_gguf(path) else Path(path).is_dir()
    if not is_hub_id and not exists:
        kind = "file" if is_gguf(path) else "folder"
        raise ValueError(
            f"{function}: no {kind} {path!r} here. Give a folder saved by save_pretrained (relative to the "
            "current directory; ~ is not expanded), a GGUF file, or the id of a repository on the hub."
        )
    try:
        yield
    except Exception as error:  # OSError, ValueError, KeyError, or an error of JSON or Rust, by cause
        missing = "" if exists else f"no folder {path!r} here; "
        raise ValueError(
            f"{function}: {missing}no readable {file} at {path!r} ({first_line(error)}). Give a folder "
            f"{remedy}, or the id of a repository on the hub."
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut to 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
