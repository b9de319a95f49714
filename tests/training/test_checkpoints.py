"""The checkpoint to resume from, and the effect of a signal on a run."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from transformers import TrainerControl, TrainerState

from tide.disk import installed_in
from tide.training.callbacks import StopOnSignal
from tide.training.checkpoints import (
    checkpoints_in,
    latest_complete_checkpoint,
    publish,
    rotate,
)

if TYPE_CHECKING:
    from pathlib import Path

FILES = {"model.safetensors": b"weights" * 99, "trainer_state.json": b"{}", "part/0.distcp": b"shard"}


def make(folder: Path, step: int) -> Path:
    written = folder / "written"
    for name, content in FILES.items():
        (written / name).parent.mkdir(parents=True, exist_ok=True)
        (written / name).write_bytes(content)
    publish(written, folder / f"checkpoint-{step}")
    return folder / f"checkpoint-{step}"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "flipped": flip_a_bit,
}


def test_checkpoints_are_ordered_by_number(tmp_path: Path) -> None:
    made = [make(tmp_path, step) for step in (9, 100, 10)]
    for name in ("checkpoint-best-12", "checkpoint-best", "checkpoint-", "checkpoint-³", "other-3"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-101").write_text("a file")
    assert checkpoints_in(tmp_path) == [made[0], made[2], made[1]]
    assert checkpoints_in(tmp_path / "nothing") == []


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_damaged_checkpoint_is_named_passed_over_and_left(tmp_path: Path, name: str, damage: str) -> None:
    older, newest = make(tmp_path, 9), make(tmp_path, 10)
    assert latest_complete_checkpoint(tmp_path) == newest
    DAMAGE[damage](newest / name)
    before, said = contents(tmp_path), []
    assert latest_complete_checkpoint(tmp_path, said.append) == older
    assert len(said) == 1 and str(newest) in said[0] and "\n" not in said[0]
    assert name in said[0] or (name, damage) == ("manifest.json", "flipped")  # a digit of another file's hash
    assert contents(tmp_path) == before


def test_any_flipped_bit_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    manifest = make(tmp_path, 1) / "manifest.json"
    whole = manifest.read_bytes()
    for position in range(8 * len(whole)):
        content = bytearray(whole)
        content[position // 8] ^= 1 << position % 8
        manifest.write_bytes(content)
        assert latest_complete_checkpoint(tmp_path) is None, bytes(content)


def test_what_has_the_name_of_a_new_checkpoint_is_kept(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-4").write_text("a file of the user")
    damaged = make(tmp_path, 6)
    flip_a_bit(damaged / "model.safetensors")
    kept = contents(damaged)
    assert latest_complete_checkpoint(tmp_path) is None
    assert latest_complete_checkpoint(make(tmp_path, 4).parent) == tmp_path / "checkpoint-4"
    assert latest_complete_checkpoint(make(tmp_path, 6).parent) == damaged
    assert make(tmp_path, 6) == damaged
    assert (tmp_path / "checkpoint-4.old-1").read_text() == "a file of the user"
    assert list(contents(tmp_path / "checkpoint-6.old-1").values()) == list(kept.values())
    assert (tmp_path / "checkpoint-6.old-2").is_dir()


def test_rotation_removes_only_files_of_a_manifest(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5, 8):
        make(tmp_path, step)
    (tmp_path / "checkpoint-1" / "manifest.json").unlink()  # not ours
    (tmp_path / "checkpoint-3" / "notes.txt").write_text("of the user")
    (tmp_path / "checkpoint-best-12").mkdir()
    rotate(tmp_path / "checkpoint-5", keep=2)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    whole = {f"checkpoint-{step}/{name}" for step in (4, 5, 8) for name in [*FILES, "manifest.json"]}
    foreign = {f"checkpoint-1/{name}" for name in FILES} | {"checkpoint-3/notes.txt"}
    assert left == whole | foreign
    assert not (tmp_path / "checkpoint-2").exists() and (tmp_path / "checkpoint-best-12").is_dir()


def test_files_replace_their_namesakes_only_when_all_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("old")
    with pytest.raises(RuntimeError, match="full"), installed_in(folder) as aside:
        (aside / "config.json").write_text("new")
        raise RuntimeError("full")
    assert contents(tmp_path) == {folder / "config.json": b"old"}
    with installed_in(folder) as aside:
        (aside / "config.json").write_text("new")
        (aside / "sub").mkdir()
        (aside / "sub" / "template.jinja").write_text("template")
    assert contents(tmp_path) == {
        folder / "config.json": b"new",
        folder / "sub" / "template.jinja": b"template",
    }
    assert not aside.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops_after_the_step(number: int) -> None:
    stop, control, alone = StopOnSignal(), TrainerControl(), SimpleNamespace(world_size=1)
    with stop.installed():
        stop.on_step_end(alone, TrainerState(), control)
        assert not control.should_save and not control.should_training_stop
        os.kill(os.getpid(), number)
        stop.on_step_end(alone, TrainerState(), control)
    assert stop.received == number
    assert control.should_save and control.should_training_stop


def test_a_second_signal_stops_at_once() -> None:
    stop = StopOnSignal()
    with stop.installed():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_earlier_handlers_come_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(RuntimeError, match="inside"), StopOnSignal().installed():
        assert [signal.getsignal(number) for number in numbers] != before
        raise RuntimeError("inside")
    assert [signal.getsignal(number) for number in numbers] == before


def test_another_thread_trains_without_handlers() -> None:
    seen = []

    def work() -> None:
        with StopOnSignal().installed():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
