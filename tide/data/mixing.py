"""Mix sources in one order, drawn once: a pure function of numbers of rows, weights and a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tide.data.gather import gather

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int32, Int64

    from tide.data.conversation import Raw, Rejected
    from tide.data.sources import Source


@dataclass(frozen=True, eq=False)
class Mixture:
    """The source and the row at each place of the order.

    Attributes:
        source: [N] int32, number of the source.
        row: [N] int64, row in that source.
    """

    source: Int32[np.ndarray, " N"]
    row: Int64[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.row)

    def read(self, sources: Sequence[Source], start: int, end: int) -> list[Raw | Rejected]:
        """Read the rows at places start to end (half-open) from the sources that were mixed."""
        of, at = self.source[start:end], self.row[start:end]
        return gather(of, at, lambda number, rows: sources[number].rows(rows))

    def where(self, sources: Sequence[Source], place: int) -> str:
        """File and line of the row at a place."""
        return sources[int(self.source[place])].where(int(self.row[place]))


def mix(
    num_rows: Sequence[int],
    weights: Sequence[float] | None = None,
    *,
    seed: int,
    total: int | None = None,
    shuffle: bool = True,
) -> Mixture:
    """Draw an order over the rows of several sources.

    Of each source it takes weight × rows, to the nearest row, as the fractions of a `dataset_mixer` in the
    alignment handbook's recipes do; above 1, rows come again once all have come.

    Args:
        num_rows: of every source, at least 1.
        weights: of every source, above 0; all 1 by default.
        seed: of the order.
        total: rows of the mixture, in the same proportions; None for weight × rows.
        shuffle: draw the order of each source's rows too, anew every time it begins again. Without, rows keep
            their order, and only the turns of several sources are drawn.
    Raises:
        ValueError: no sources, one without rows, weights that do not fit or are not above 0, a total below 1,
            or a mixture of no row.
    """
    shares = np.ones(len(num_rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    rows = np.asarray(num_rows, dtype=np.int64)
    if not len(rows) or len(shares) != len(rows) or (rows < 1).any():
        raise ValueError(
            f"mix: expected one weight per source, and rows in every source; got {list(num_rows)} rows and "
            f"weights {weights}. Leave an empty source out."
        )
    if not (np.isfinite(shares) & (shares > 0)).all():
        raise ValueError(
            f"mix: weights must be above 0; got {shares.tolist()}. Leave the source out instead."
        )
    if total is not None and total < 1:
        raise ValueError(f"mix: total must be 1 or more; got {total}.")
    counts = _counts(rows * shares, total)
    if not counts.sum():
        raise ValueError(f"mix: weights {shares.tolist()} of {rows.tolist()} rows are no row. Raise them.")
    source = np.repeat(np.arange(len(rows), dtype=np.int32), counts)
    if len(rows) > 1:
        source = np.random.default_rng([seed, len(rows)]).permutation(source)
    row = np.empty(len(source), dtype=np.int64)
    for number, (size, count) in enumerate(zip(rows.tolist(), counts.tolist(), strict=True)):
        passes = range(-(-count // size))
        order = [
            np.random.default_rng([seed, number, at]).permutation(size) if shuffle else np.arange(size)
            for at in passes
        ]
        row[source == number] = np.concatenate([np.empty(0, np.int64), *order])[:count]
    return Mixture(source, row)


def _counts(wanted: np.ndarray, total: int | None) -> Int64[np.ndarray, " S"]:
    """Round the rows of each source; with a total, those of the largest remainders up."""
    if total is None:
        return np.array(np.rint(wanted), dtype=np.int64)
    exact = wanted * (total / wanted.sum())
    counts: Int64[np.ndarray, " S"] = np.floor(exact).astype(np.int64)
    largest_remainders = np.argsort(counts - exact, kind="stable")
    counts[largest_remainders[: total - counts.sum()]] += 1
    return counts
