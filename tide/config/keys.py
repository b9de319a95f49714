"""Errors about what a recipe's value leads to: they name the key, as errors about the value itself do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_key(key: str) -> Iterator[None]:
    """Errors from within begin with a key.

    Args:
        key: dotted, or a command's option, that holds the value which is used within.
    Raises:
        ValueError: for a ValueError or OSError from within, with its message after the key.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"{key}: {error}") from error
