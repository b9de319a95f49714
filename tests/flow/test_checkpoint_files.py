"""The files of real checkpoints: all of them are verified, and a save that fails leaves none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.flow.recipes import tiny_recipe
from tide import distill
from tide.training import DistillationTrainer
from tide.training.checkpoints import MANIFEST_FILE, checkpoints_in, latest_complete_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tiny import TinyCheckpoints


def test_every_file_of_a_checkpoint_is_verified(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    distill(tiny_recipe(tiny_checkpoints, tmp_path / "run", max_steps=2, save_steps=1))
    one, two = checkpoints_in(tmp_path / "run")
    files = {path.name for path in two.iterdir()}
    assert files > {
        "model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
    }
    assert json.loads((two / MANIFEST_FILE).read_text())["files"].keys() == files - {MANIFEST_FILE}
    assert latest_complete_checkpoint(tmp_path / "run") == two
    for name in files:
        content = (two / name).read_bytes()
        flipped = bytes([*content[:-3], content[-3] ^ 1, *content[-2:]])
        for damage in (b"", content[:100], flipped):
            (two / name).write_bytes(damage)
            assert latest_complete_checkpoint(tmp_path / "run") == one, (name, len(damage))
        (two / name).unlink()
        assert latest_complete_checkpoint(tmp_path / "run") == one, name
        (two / name).write_bytes(content)
    assert latest_complete_checkpoint(tmp_path / "run") == two


@pytest.mark.parametrize("dies_in", ["_save_optimizer_and_scheduler", "_save"])
def test_a_save_that_fails_leaves_nothing_of_itself(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path / "run", max_steps=2, save_steps=1)
    write = getattr(DistillationTrainer, dies_in)

    def full(self: DistillationTrainer, *arguments: object) -> None:
        write(self, *arguments)
        if self.state.global_step == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(DistillationTrainer, dies_in, full)
    with pytest.raises(OSError, match="No space left"):
        distill(recipe)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "recipe.yaml",
        "inputs.sha256",
        "checkpoint-1",
    }
    monkeypatch.undo()
    assert distill(recipe, resume=True).finished
