"""Every number of a recipe has an upper bound, so that no value asks the machine for as much."""

from __future__ import annotations

import pytest

from tide.config import Recipe
from tide.config.reading import declared_keys
from tide.config.values import LARGEST, adapter, in_words

NUMBERS = {
    key: field.rebuild_annotation()
    for key, field in declared_keys(Recipe).items()
    if "number" in in_words(field.rebuild_annotation()).split(" or null")[0].replace("text, number", "")
}


def test_numbers_of_all_sections_are_tried() -> None:
    assert len(NUMBERS) > 30 and {"data.sources.*.weight", "training.adam_epsilon"} <= NUMBERS.keys()


@pytest.mark.parametrize("key", NUMBERS)
def test_absurd_numbers_are_refused(key: str) -> None:
    for value in (
        999_999_999_999,
        1e300,
        LARGEST + 1 if "seed" not in key else 2**32,
        float("inf"),
        float("nan"),
    ):
        with pytest.raises(ValueError):
            adapter(NUMBERS[key]).validate_python(value, strict=True)


@pytest.mark.parametrize("key", ["objective.temperature", "objective.chunk_temperature"])
def test_a_temperature_of_nothing_is_refused(key: str) -> None:
    with pytest.raises(ValueError):
        adapter(NUMBERS[key]).validate_python(1e-300, strict=True)
