"""Several sources in one order: a pure function of numbers of rows, weights and a seed.

The order is drawn once, up front, so that it hangs neither on how many processes read it nor on how far they
are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int32, Int64

    from tide.data.conversation import Raw, Rejected
    from tide.data.sources import Source

MixRule: TypeAlias = Literal["share", "first_exhausted", "all_exhausted"]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Which row of which source stands at each place.

    Attributes:
        source: [N] int32, number of the source.
        row: [N] int64, row in that source.
    """

    source: Int32[np.ndarray, " N"]
    row: Int64[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.row)

    def read(self, sources: Sequence[Source], start: int, end: int) -> list[Raw | Rejected]:
        """The rows at places start to end, whichever sources they come from.

        Args:
            sources: in the order that the mixture was made for.
            start, end: places, half-open.
        """
        of, at = self.source[start:end], self.row[start:end]
        rows: list[Raw | Rejected] = [{}] * len(at)
        for number in np.unique(of):
            places = np.flatnonzero(of == number)
            for place, row in zip(places, sources[number].rows(at[places]), strict=True):
                rows[place] = row
        return rows

    def where(self, sources: Sequence[Source], place: int) -> str:
        """File and line of the row at a place, as its source says it.

        Args:
            sources: in the order that the mixture was made for.
            place: from 0.
        """
        return sources[int(self.source[place])].where(int(self.row[place]))


def mix(
    num_rows: Sequence[int],
    weights: Sequence[float] | None = None,
    *,
    seed: int,
    rule: MixRule = "share",
    total: int | None = None,
    shuffle: bool = True,
) -> Mixture:
    """Draws the order in which rows of several sources are read.

    What weights mean is up to the rule. "share" takes weight × rows of every source, to the nearest row, as
    the fractions of a `dataset_mixer` in the alignment handbook's recipes do; above 1, rows come again. The
    others are the `probabilities` and `stopping_strategy` of `datasets.interleave_datasets`: every place
    draws its source with probability weight / sum, until one source, or every source, has been read to its
    end; one that ends earlier begins again. With `total` the mixture has that many rows: of "share" the same
    proportions, of the others as many draws.

    Args:
        num_rows: of every source, at least 1.
        weights: of every source, above 0; all 1 by default.
        seed: of the order.
        rule: what weights mean, above.
        total: rows of the mixture; the rule decides when None.
        shuffle: every source is read in a random order, another one every time it begins again; in its own
            order otherwise. Where sources take turns is random either way; a single source without shuffle is
            read as it stands.
    Returns:
        The mixture.
    Raises:
        ValueError: no sources, one without rows, weights that do not fit or are not above 0, a total below 1,
            or shares that come to no row.
    """
    shares = np.ones(len(num_rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    rows = np.asarray(num_rows, dtype=np.int64)
    if not len(rows) or len(shares) != len(rows) or (rows < 1).any():
        raise ValueError(
            f"mix: expected one weight per source, and rows in every source; got {list(num_rows)} rows and "
            f"{None if weights is None else list(weights)}. Leave an empty source out."
        )
    if not (np.isfinite(shares) & (shares > 0)).all():
        raise ValueError(
            f"mix: weights must be above 0; got {shares.tolist()}. Leave the source out instead."
        )
    if total is not None and total < 1:
        raise ValueError(f"mix: total must be 1 or more; got {total}.")
    draw = np.random.default_rng([seed, len(rows)])
    if rule == "share":
        counts = _share_counts(rows * shares, total)
        if not counts.sum():
            raise ValueError(
                f"mix: weights {shares.tolist()} of {rows.tolist()} rows are no row. Raise them."
            )
        source = np.repeat(np.arange(len(rows), dtype=np.int32), counts)
        if len(rows) > 1:
            source = draw.permutation(source)
    else:
        source = _draws(draw, shares / shares.sum(), rows, rule, total)
    row = np.empty(len(source), dtype=np.int64)
    for number, count in enumerate(rows.tolist()):
        places = np.flatnonzero(source == number)
        row[places] = _passes(count, len(places), [seed, number] if shuffle else None)
    return Mixture(source, row)


def _share_counts(wanted: np.ndarray, total: int | None) -> Int64[np.ndarray, " S"]:
    if total is None:
        return np.array(np.rint(wanted), dtype=np.int64)
    exact = wanted * (total / wanted.sum())
    counts: Int64[np.ndarray, " S"] = np.floor(exact).astype(np.int64)
    largest_rests = np.argsort(counts - exact, kind="stable")
    counts[largest_rests[: total - counts.sum()]] += 1
    return counts


def _draws(
    draw: np.random.Generator,
    probabilities: np.ndarray,
    rows: Int64[np.ndarray, " S"],
    rule: MixRule,
    total: int | None,
) -> Int32[np.ndarray, " N"]:
    """Sources drawn one by one, until the rule or the total ends it."""
    parts: list[np.ndarray] = []
    left = rows.copy()
    num_drawn = 0
    while total is None or num_drawn < total:
        size = max(1024, int(rows.sum())) if total is None else total - num_drawn
        part = draw.choice(len(rows), size=size, p=probabilities).astype(np.int32)
        parts.append(part)
        num_drawn += size
        if total is None:
            # Where in this part each source ends; `size` if it does not.
            ends = []
            for number, missing in enumerate(left.tolist()):
                places = np.flatnonzero(part == number)
                ends.append(
                    0 if missing <= 0 else places[missing - 1] + 1 if missing <= len(places) else None
                )
                left[number] -= len(places)
            reached = [end for end in ends if end is not None]
            if rule == "first_exhausted" and reached:
                parts[-1] = part[: min(reached)]
                break
            if rule == "all_exhausted" and len(reached) == len(ends):
                parts[-1] = part[: max(reached)]
                break
    return np.concatenate(parts)


def _passes(count: int, length: int, seed: list[int] | None) -> Int64[np.ndarray, " N"]:
    """`length` rows out of `count`, all of them before one comes again."""
    if seed is None:
        return np.arange(length, dtype=np.int64) % count
    passes = [
        np.random.default_rng([*seed, number]).permutation(count) for number in range(-(-length // count))
    ]
    return np.concatenate([np.empty(0, np.int64), *passes])[:length]
