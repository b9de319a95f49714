"""The checkpoint to resume from, and the effect of a signal on a run."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from transformers import TrainerControl, TrainerState

from tide.training.callbacks import StopOnSignal
from tide.training.run_directory import checkpoints_in, latest_complete_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = '{"global_step": 3, "log_history": []}'


def make(folder: Path, step: int, state: str | None = WHOLE) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    return path


def test_checkpoints_are_ordered_by_number(tmp_path: Path) -> None:
    made = [make(tmp_path, step) for step in (9, 100, 10)]
    for name in ("checkpoint-best", "checkpoint-", "other-3"):
        (tmp_path / name).mkdir()
    assert checkpoints_in(tmp_path) == [made[0], made[2], made[1]]
    assert checkpoints_in(tmp_path / "nothing") == []


def test_the_newest_checkpoint_is_taken(tmp_path: Path) -> None:
    older, newest = make(tmp_path, 9), make(tmp_path, 10)
    assert latest_complete_checkpoint(tmp_path) == newest
    assert older.is_dir()


@pytest.mark.parametrize("state", [None, "", WHOLE[:-5]], ids=["missing", "empty", "cut"])
def test_a_torn_checkpoint_is_removed_and_the_one_before_taken(tmp_path: Path, state: str | None) -> None:
    older, torn = make(tmp_path, 4), make(tmp_path, 6, state)
    torn_too = make(tmp_path, 8, None)
    assert latest_complete_checkpoint(tmp_path) == older
    assert not torn.exists() and not torn_too.exists()
    assert (older / "model.safetensors").read_bytes() == b"weights"


def test_a_torn_checkpoint_before_a_complete_one_stays(tmp_path: Path) -> None:
    torn, newest = make(tmp_path, 4, None), make(tmp_path, 6)
    assert latest_complete_checkpoint(tmp_path) == newest
    assert torn.exists()


def test_without_a_complete_checkpoint_none_is_left(tmp_path: Path) -> None:
    make(tmp_path, 2, None)
    assert latest_complete_checkpoint(tmp_path) is None
    assert checkpoints_in(tmp_path) == []


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
