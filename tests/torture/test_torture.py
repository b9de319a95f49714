"""Trials are counted as held, not held or skipped; a command that breaks a rule is found."""

from __future__ import annotations

import argparse
import unittest
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.torture.__main__ import Trial, tried
from tests.torture.lab import Command, Lab

if TYPE_CHECKING:
    import random
    from pathlib import Path


def test_the_table_counts_what_held(tmp_path: Path) -> None:
    drawn = []

    def one_in_four(lab: Lab, draw: random.Random) -> None:
        drawn.append(draw.random())
        if len(drawn) % 4 == 0:
            raise AssertionError(f"{lab.folder}/run\nis torn")

    def no_disk(lab: Lab, draw: random.Random) -> None:
        raise unittest.SkipTest("no disk")

    lab, options = Lab(tmp_path), argparse.Namespace(seed=7, scale=2)
    row, failures = tried(Trial("runs", "whole", one_in_four, 4), lab, options)
    assert row == "| runs | whole | 8 | 6 | 2 | 0 |"
    assert failures == [f"- runs, {number}: AssertionError: /run is torn" for number in (3, 7)]
    first = [*drawn]
    drawn.clear()
    tried(Trial("runs", "whole", one_in_four, 4), lab, options)
    assert drawn == first and len(set(drawn)) == 8
    row, failures = tried(Trial("disks", "whole", no_disk, 4), lab, options)
    assert (row, failures) == ("| disks | whole | 0 | skipped: no disk |  | 0 |", [])


@pytest.mark.parametrize(
    ("status", "err", "fault"),
    [
        (2, "tide x: names a.yaml\n", None),
        (0, "tide x: names a.yaml\n", "status 0"),
        (1, "tide x: unexpected KeyError a.yaml\n", "status 1: .*KeyError"),
        (-11, "", "status -11"),
        (2, "tide x: names b.yaml\n", "'a.yaml' is not in"),
        (2, "tide x: a.yaml\ntide x: more\n", "status 2, "),
        (2, "Traceback\ntide x: a.yaml\n", "Traceback"),
    ],
)
def test_an_error_that_is_not_one_line_is_found(
    tmp_path: Path, status: int, err: str, fault: str | None
) -> None:
    def nothing(*seconds: float) -> None: ...

    command = object.__new__(Command)
    command.streams = tmp_path / "stdout", tmp_path / "stderr"
    command.process = SimpleNamespace(exitcode=status, join=nothing, kill=nothing)
    for path, text in zip(command.streams, ("", err), strict=True):
        path.write_text(text)
    if fault is None:
        assert command.refused(names="a.yaml").err == err
    else:
        with pytest.raises(AssertionError, match=fault):
            command.refused(names="a.yaml")
