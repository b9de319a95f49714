"""Where models and tokenizers come from: a folder, or the id of a repository on the hub."""

from __future__ import annotations

from pathlib import Path


def check_place(function: str, path: str) -> None:
    """Refuse a mistyped folder, which transformers would look for on the hub, with retries.

    Raises:
        ValueError: `path` is no folder and cannot be a hub id.
    """
    first, *rest = path.split("/")
    is_hub_id = not path.startswith((".", "~")) and first != "" and len(rest) <= 1
    if rest and Path(first).is_dir():
        is_hub_id = False
    if not is_hub_id and not Path(path).is_dir():
        raise ValueError(
            f"{function}: no folder {path!r} here. Give a folder saved by save_pretrained (relative to the "
            "current directory; ~ is not expanded), or the id of a repository on the hub."
        )


def unreadable(function: str, file: str, path: str, error: Exception, remedy: str) -> ValueError:
    """The error for a file that cannot be read at `path`, with the first line of its cause."""
    missing = "" if Path(path).is_dir() else f"no folder {path!r} here; "
    return ValueError(
        f"{function}: {missing}no readable {file} at {path!r} ({first_line(error)}). Give a folder {remedy}, "
        "or the id of a repository on the hub."
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut to 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
