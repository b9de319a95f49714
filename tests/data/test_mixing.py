"""Orders of mixed sources: shares, passes, and that they depend on their arguments alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tide.data.mixing import mix
from tide.data.sources import open_source

counts = st.lists(st.integers(1, 30), min_size=1, max_size=4)


@given(rows=counts, seed=st.integers(0, 5), shuffle=st.booleans())
def test_without_weights_every_row_comes_once(rows, seed, shuffle):
    mixture = mix(rows, seed=seed, shuffle=shuffle)
    pairs = list(zip(mixture.source.tolist(), mixture.row.tolist(), strict=True))
    assert sorted(pairs) == [(number, row) for number, count in enumerate(rows) for row in range(count)]
    again = mix(rows, seed=seed, shuffle=shuffle)
    assert np.array_equal(mixture.source, again.source) and np.array_equal(mixture.row, again.row)
    if not shuffle:
        for number, count in enumerate(rows):
            assert mixture.row[mixture.source == number].tolist() == list(range(count))


def test_one_source_in_its_own_order():
    assert mix([5], seed=3, shuffle=False).row.tolist() == [0, 1, 2, 3, 4]
    assert mix([1000], seed=3).row.tolist() != list(range(1000))
    assert mix([1000], seed=3).row.tolist() != mix([1000], seed=4).row.tolist()


def test_weights_are_shares_of_each_source():
    mixture = mix([100, 40, 10], [0.25, 1, 2.5], seed=0)
    assert np.bincount(mixture.source).tolist() == [25, 40, 25]
    rows = [mixture.row[mixture.source == number] for number in range(3)]
    assert len(set(rows[0].tolist())) == 25 and sorted(rows[1].tolist()) == list(range(40))
    # All rows before one comes again, in another order.
    passes = rows[2][:10].tolist(), rows[2][10:20].tolist()
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(10)) and passes[0] != passes[1]
    assert len(set(rows[2][20:].tolist())) == 5


def test_shares_of_a_total():
    for total in (1, 7, 100, 1000):
        mixture = mix([100, 50], [1, 4], seed=0, total=total)
        num_first = int((mixture.source == 0).sum())
        assert len(mixture) == total and abs(num_first - total / 3) < 1


def test_sources_take_turns_at_random():
    mixture = mix([5000, 5000], seed=0)
    halves = mixture.source.reshape(2, -1).sum(axis=1)
    assert abs(halves[0] - 2500) < 150
    assert 4500 < np.count_nonzero(np.diff(mixture.source)) < 5500


@pytest.mark.parametrize(
    ("rows", "weights", "options", "message"),
    [
        ([], None, {}, r"mix: expected one weight per source, and rows in every source; got \[\]"),
        ([3, 0], None, {}, r"rows in every source; got \[3, 0\] rows .* Leave an empty source out"),
        ([3, 3], [1.0], {}, r"one weight per source"),
        ([3], [0.0], {}, r"mix: weights must be above 0; got \[0\.0\]"),
        ([3], [float("nan")], {}, r"weights must be above 0"),
        ([3], [0.1], {}, r"mix: weights \[0\.1\] of \[3\] rows are no row\. Raise them"),
        ([3], None, {"total": 0}, r"mix: total must be 1 or more; got 0\."),
    ],
)
def test_impossible_mixtures_are_errors(rows, weights, options, message):
    with pytest.raises(ValueError, match=message):
        mix(rows, weights, seed=0, **options)


def test_rows_are_read_at_their_places(tmp_path):
    sources = []
    for number, count in enumerate([7, 4]):
        file = tmp_path / f"{number}.jsonl"
        file.write_text("".join(f'{{"text": "{number} {row}"}}\n' for row in range(count)))
        sources.append(open_source(file))
    mixture = mix([7, 4], [1, 2], seed=0)
    whole = mixture.read(sources, 0, len(mixture))
    places = zip(mixture.source.tolist(), mixture.row.tolist(), strict=True)
    assert whole == [{"text": f"{number} {row}"} for number, row in places]
    starts = range(0, len(mixture), 4)
    assert [row for start in starts for row in mixture.read(sources, start, start + 4)] == whole
