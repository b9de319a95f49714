"""An interrupted preparation with several workers: the parent stops, the workers hear nothing of it."""

from __future__ import annotations

import pytest

from tests.preparation.prepared import recipe_of
from tide.preparation.prepare import _made
from tide.preparation.recipe_data import Preparation


def test_an_interruption_does_not_wait_for_the_parts_that_no_worker_has(tiny_checkpoints, tmp_path):
    sources = [{"path": str(tiny_checkpoints.rows), "weight": 100}]
    recipe = recipe_of(tiny_checkpoints, tmp_path, train=None, sources=sources)
    preparation = Preparation.of(recipe, shard_rows=1)
    directory = tmp_path / "prepared"
    directory.mkdir()
    numbers = list(range(len(preparation.mixture)))
    made = _made(preparation, numbers, directory, 2)
    next(made)
    with pytest.raises(KeyboardInterrupt):
        made.throw(KeyboardInterrupt)
    assert len(numbers) == 800 and 1 <= len(list(directory.glob("part-*.json"))) < 400
