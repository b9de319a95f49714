"""What a run shows while it trains: a progress bar, and a line of figures at every logging step."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from transformers import TrainerControl, TrainerState, TrainingArguments

# Shown last, by short names; of the others, all but what is for trackers alone.
LAST = {"learning_rate": "lr", "grad_norm": "grad", "tokens_per_second": "tok/s"}
NOT_SHOWN = {"epoch", "lambda", "active_chunks"} | {
    f"{side}_{figure}" for side in ("student", "teacher") for figure in ("tokens", "padding")
}


class StepLog(TrainerCallback):  # type: ignore[misc]
    """Shows the steps of the first process, in place of transformers' bar and dictionaries.

    Args:
        log: called with every line.
        bar: show a progress bar on the standard error, if that is a terminal.
    """

    def __init__(self, log: Callable[[str], None], *, bar: bool) -> None:
        self._log = log
        console = Console(stderr=True)
        self._bar = Progress(
            *(TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("steps")),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (bar and console.is_terminal),
        )

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar inside the block."""
        with self._bar:
            yield

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Called by the trainer."""
        if state.is_world_process_zero:
            self._bar.add_task("steps", total=state.max_steps, completed=state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Called by the trainer."""
        for task in self._bar.task_ids:
            self._bar.update(task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Called by the trainer."""
        if state.is_world_process_zero and logs is not None and ("loss" in logs or "eval_bound" in logs):
            self._log(step_line(state.global_step, state.max_steps, logs))


def step_line(step: int, max_steps: int, logs: Mapping[str, float]) -> str:
    """Figures of one logging step, such as `step  30/120  loss 5.47  lr 0.001`."""
    shown = {name: name for name in logs if name not in NOT_SHOWN and name not in LAST}
    shown |= {name: short for name, short in LAST.items() if name in logs}
    figures = (f"{short} {_figure(logs[name])}" for name, short in shown.items())
    return "  ".join([f"step {step:{len(str(max_steps))}}/{max_steps}", *figures])


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
