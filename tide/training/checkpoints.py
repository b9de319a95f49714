"""The checkpoint to resume from, and an interrupt that leaves one."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import TrainerCallback

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from transformers import TrainerControl, TrainerState, TrainingArguments


def checkpoints_in(output_dir: str | Path) -> list[Path]:
    """All `checkpoint-N` folders, by N."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """N of `checkpoint-N`."""
    return int(checkpoint.name.split("-")[-1])


def latest_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest complete checkpoint; later, torn ones are removed.

    The Trainer writes trainer_state.json last, so a folder is complete if that file parses.
    """
    for path in reversed(checkpoints_in(output_dir)):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(path)
        else:
            return path
    return None


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """Finish the step, save and stop after SIGINT or SIGTERM; a second signal stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals inside the block, then restore the earlier handlers.

        Python delivers signals to its main thread alone; in any other nothing is handled.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        earlier = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        """Called by the trainer."""
        received = self.received is not None
        if args.world_size > 1:
            # Ranks receive a signal at different steps and must stop at the same one. They agree at the
            # logging interval, because the all-reduce makes the host wait.
            if state.global_step % args.logging_steps:
                return control
            flag = torch.tensor(float(received), device=args.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            received = bool(flag)
        if received:
            control.should_save = True
            control.should_training_stop = True
        return control
