"""Callbacks of the Trainer: an interrupt that leaves a checkpoint, and the time and memory of a run."""

from __future__ import annotations

import resource
import signal
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from transformers import TrainerControl, TrainingArguments


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """Finish the step, save and stop after SIGINT or SIGTERM; a second signal stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals inside the block, then restore the earlier handlers.

        Python delivers signals to its main thread alone; in any other nothing is handled.
        """
        in_main = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM) if in_main else ()
        earlier = {number: signal.signal(number, self._on_signal) for number in signals}
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


class RunMeter(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Time and peak memory of a run and of the runs that it resumes.

    The Trainer writes `state()` into trainer_state.json of every checkpoint. Steps that a killed process
    trained after its last checkpoint do not count.
    """

    def __init__(self) -> None:
        self._started: float | None = None
        self._earlier = {"seconds": 0.0, "peak_memory_mib": 0.0}

    def start(self, checkpoint: Path | None) -> None:
        """Start counting, from the figures in `checkpoint`."""
        if checkpoint is not None:
            written = TrainerState.load_from_json(f"{checkpoint}/trainer_state.json").stateful_callbacks
            self._earlier |= written.get(type(self).__name__, {}).get("attributes", {})
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Training time of all processes of the run."""
        now = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._earlier["seconds"] + now

    @property
    def peak_memory_mib(self) -> float:
        """Peak resident memory of the largest of those processes."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Bytes on macOS, KiB on Linux.
        return max(self._earlier["peak_memory_mib"], peak / (2**20 if sys.platform == "darwin" else 2**10))

    def state(self) -> dict[str, dict[str, float]]:
        """The figures, as the Trainer saves a callback's state."""
        figures = {"seconds": self.seconds, "peak_memory_mib": self.peak_memory_mib}
        return {"args": {}, "attributes": figures}
