"""The look of figures: colours that can be told apart, and a clear error without matplotlib."""

from __future__ import annotations

import importlib
import itertools
import sys

import pytest

from tests.colours import VISION, contrast, distance
from tide.inspection.figures import DARK, LIGHT, Theme


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_told_apart(theme: Theme) -> None:
    for vision in VISION:
        for one, other in itertools.combinations(theme.lines, 2):
            assert distance(one, other, vision) >= 10, (vision, one, other)
    assert all(contrast(colour, theme.background) >= 3 for colour in theme.lines)
    assert all(contrast(colour, theme.background) >= 4.5 for colour in (theme.ink, theme.muted))


def test_without_matplotlib_the_error_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "tide.inspection.figures")
    with pytest.raises(ImportError, match=r'pip install -e "\.\[plots\]"'):
        importlib.import_module("tide.inspection.figures")
