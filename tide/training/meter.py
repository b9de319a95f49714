"""Time and peak memory of a run, kept in its checkpoints, so that a resumed run reports its whole."""

from __future__ import annotations

import resource
import sys
import time
from typing import TYPE_CHECKING

from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

if TYPE_CHECKING:
    from pathlib import Path


class RunMeter(TrainerCallback, ExportableState):  # type: ignore[misc]
    """The Trainer writes `state()` into trainer_state.json of every checkpoint.

    Steps that a killed process trained after its last checkpoint do not count.
    """

    def __init__(self) -> None:
        self._started: float | None = None
        self._earlier_seconds = self._earlier_peak_mib = 0.0

    def start(self, checkpoint: Path | None) -> None:
        """Start counting, from the figures in `checkpoint`."""
        if checkpoint is not None:
            written = TrainerState.load_from_json(f"{checkpoint}/trainer_state.json").stateful_callbacks
            earlier = written.get(type(self).__name__, {}).get("attributes", {})
            self._earlier_seconds = earlier.get("seconds", 0.0)
            self._earlier_peak_mib = earlier.get("peak_memory_mib", 0.0)
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Training time of all processes of the run."""
        now = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._earlier_seconds + now

    @property
    def peak_memory_mib(self) -> float:
        """Peak resident memory of the largest of those processes."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Bytes on macOS, KiB on Linux.
        return max(self._earlier_peak_mib, peak / (2**20 if sys.platform == "darwin" else 2**10))

    def state(self) -> dict[str, dict[str, float]]:
        """The figures, as the Trainer saves a callback's state."""
        figures = {"seconds": self.seconds, "peak_memory_mib": self.peak_memory_mib}
        return {"args": {}, "attributes": figures}
