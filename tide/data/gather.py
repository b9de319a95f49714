"""Read numbered items that lie in several groups, and return them in the order asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int

_T = TypeVar("_T")


def gather(
    groups: Int[np.ndarray, " n"],
    numbers: Int[np.ndarray, " n"],
    read: Callable[[int, np.ndarray], Iterable[_T]],
) -> list[_T]:
    """Read each group once; `read` gives the items of a group that have these numbers."""
    found: dict[int, _T] = {}
    for group in np.unique(groups).tolist():
        places = np.flatnonzero(groups == group)
        found.update(zip(places.tolist(), read(group, numbers[places]), strict=True))
    return [found[place] for place in range(len(groups))]
