"""Runs that are killed, damaged, doubled and out of space end as undisturbed ones, bit for bit."""

from __future__ import annotations

import subprocess
import time
import unittest
from pathlib import Path
from typing import TYPE_CHECKING

from tests.flow.test_resume import assert_same_bits, learned, moved_back
from tests.preparation.prepared import files
from tests.torture.lab import METHODS, damage
from tide.training.checkpoints import checkpoints_in, latest_complete_checkpoint

if TYPE_CHECKING:
    import random

    from tests.torture.lab import Lab


def assert_same_run(run: Path, whole: Path) -> None:
    assert_same_bits(run, whole)
    assert learned(run) == learned(whole), "the logs differ"


def killed(lab: Lab, draw: random.Random) -> None:
    recipe, path, seconds = lab.whole(draw.choice(METHODS))
    kills = 0
    while not kills:
        run = lab.new_folder() / "run"
        again = ("distill", path, f"training.output_dir={run}", "--resume")
        kills = sum(lab.tide(*again).kill(draw.uniform(0, seconds)) for _ in range(draw.randint(1, 3)))
    assert lab.tide(*again).end().status == 0
    assert_same_run(run, Path(recipe.training.output_dir))


def damaged(lab: Lab, draw: random.Random) -> None:
    recipe, path, _ = lab.whole(draw.choice(METHODS))
    again = moved_back(recipe, lab.new_folder() / "run", 6)
    run = Path(again.training.output_dir)
    newest = checkpoints_in(run)[-1]
    found = sorted(newest.iterdir())
    done = [damage(file, draw, "flip cut empty remove") for file in draw.sample(found, draw.randint(1, 2))]
    ended = lab.tide("distill", path, f"training.output_dir={run}", "--resume").end()
    assert ended.status == 0, f"{done}: {ended.err[-300:]}"
    assert f"passing over {newest}" in ended.err, f"{done}: not passed over"
    assert_same_run(run, Path(recipe.training.output_dir))


def doubled(lab: Lab, draw: random.Random) -> None:
    recipe, path, seconds = lab.whole(draw.choice(METHODS))
    run = lab.new_folder() / "run"
    one = lab.tide("distill", path, f"training.output_dir={run}")
    one.process.join(draw.choice((0, draw.uniform(0, 1.5 * seconds))))
    other = lab.tide("distill", path, f"training.output_dir={run}")
    statuses = sorted(command.end().status for command in (one, other))
    assert statuses == [0, 2], f"statuses {statuses}"
    (one if one.end().status else other).refused(names=run)
    assert_same_run(run, Path(recipe.training.output_dir))


def prepared(lab: Lab, draw: random.Random) -> None:
    _, path, _ = lab.whole("tide_cross")
    folder = lab.new_folder()
    command = ("prepare", path, "--workers=1")
    start = time.monotonic()
    assert lab.tide(*command, f"data.prepared={folder / 'whole'}").end().status == 0
    seconds = time.monotonic() - start
    shards = f"data.prepared={folder / 'shards'}"
    lab.tide(*command, shards).kill(draw.uniform(0, seconds))
    pair = [lab.tide(*command, shards) for _ in range(2)]
    ended = [each.end() for each in pair]
    assert 0 in [each.status for each in ended], "; ".join(each.err.strip() for each in ended)
    assert files(folder / "shards") == files(folder / "whole"), "the shards differ"


def out_of_space(lab: Lab, draw: random.Random) -> None:
    recipe, path, _ = lab.whole(draw.choice(METHODS))
    whole = Path(recipe.training.output_dir)
    needed = sum(file.stat().st_size for file in whole.rglob("*") if file.is_file()) >> 10
    disk = lab.new_folder()
    size = f"size={draw.randint(8, needed)}k"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", disk], capture_output=True).returncode:
        raise unittest.SkipTest("no file system of a chosen size can be mounted here")
    try:
        command = ("distill", path, f"training.output_dir={disk / 'run'}")
        lab.tide(*command).refused(names=f"cannot write '{disk}")
        kept = checkpoints_in(disk / "run")
        assert not kept or latest_complete_checkpoint(disk / "run") == kept[-1], "an incomplete checkpoint"
        subprocess.run(["mount", "-o", f"remount,size={4 * needed}k", disk], check=True)
        assert lab.tide(*command, "--resume").end().status == 0
        assert_same_run(disk / "run", whole)
    finally:
        subprocess.run(["umount", disk], check=True)
