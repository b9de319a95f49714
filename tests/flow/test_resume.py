"""An interrupted run ends with the weights of an uninterrupted one, bit for bit; runs are never mixed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from tests.flow.recipes import statuses, tiny_recipe, tiny_values
from tests.tiny import ROWS, write_rows
from tide import distill, pipeline
from tide.cli.main import main
from tide.config import Recipe
from tide.disk import ASIDE
from tide.training.checkpoints import MANIFEST_FILE, checkpoints_in, publish

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tiny import TinyCheckpoints

# Epochs of four steps; warm-up and decay, so that the schedule's state counts as well.
LONG = {
    "max_steps": 8,
    "batch_size": 2,
    "save_steps": 3,
    "save_total_limit": 9,
    "warmup_ratio": 0.25,
    "lr_scheduler": "cosine",
}

# Dies while the checkpoint of step 6 is half on disk: its weights are written, its optimiser state is not.
KILLED = """
import os, signal, sys
from tide.cli.main import main
from tide.training import DistillationTrainer

write = DistillationTrainer._save_optimizer_and_scheduler

def die_at_six(self, folder):
    if self.state.global_step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, folder)

DistillationTrainer._save_optimizer_and_scheduler = die_at_six
sys.exit(main(["distill", sys.argv[1]]))
"""


class Steps(TrainerCallback):
    """Records the steps that a process trains: what tells going on from starting again."""

    def __init__(self) -> None:
        self.trained: list[int] = []

    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        self.trained.append(state.global_step)


class SignalAt(TrainerCallback):
    """Sends this process a signal as a step begins."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def on_step_begin(self, args: object, state: object, control: object, **kwargs: object) -> None:
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), self.number)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, f"{len(different)} of {len(first)} tensors differ, first {different[:1]}"


def learned(folder: Path) -> list[dict[str, float]]:
    """A finished run's logs without its clock."""
    entries = json.loads((folder / "summary.json").read_text())["log_history"]
    return [
        {key: value for key, value in entry.items() if key != "tokens_per_second"}
        for entry in entries
        if "loss" in entry
    ]


def moved_back(recipe: Recipe, folder: Path, step: int) -> Recipe:
    """A copy of the recipe's finished run as it was after the checkpoint of `step`."""
    done = shutil.copytree(recipe.training.output_dir, folder)
    for path in [*checkpoints_in(done), done / "model.safetensors", done / "summary.json"]:
        if path.is_file():
            path.unlink()
        elif int(path.name.split("-")[1]) > step:
            shutil.rmtree(path)
    return recipe.replace(training={"output_dir": str(folder)})


def test_a_killed_run_resumes_bit_for_bit(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path / "killed", "tide_shared", **LONG)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    environment = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "recipe.yaml")],
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    torn = tmp_path / "killed" / ASIDE / "checkpoint-6"
    assert (torn / "model.safetensors").exists() and not (torn / "trainer_state.json").exists()
    assert not (tmp_path / "killed" / "checkpoint-6").exists()
    assert not (tmp_path / "killed" / "summary.json").exists()

    steps = Steps()
    resumed = distill(recipe, resume=True, callbacks=[steps])
    assert (resumed.finished, resumed.steps, steps.trained) == (True, 8, [4, 5, 6, 7, 8])
    assert not (tmp_path / "killed" / ASIDE).exists()
    whole = tiny_recipe(tiny_checkpoints, tmp_path / "whole", "tide_shared", **LONG)
    distill(whole)
    assert_same_bits(tmp_path / "killed", tmp_path / "whole")
    assert learned(tmp_path / "killed") == learned(tmp_path / "whole")


# In the first epoch, and in the second.
@pytest.mark.parametrize("step", [pytest.param(2, marks=pytest.mark.slow), 5])
def test_an_interrupt_writes_a_checkpoint_and_resumes_bit_for_bit(
    tiny_checkpoints: TinyCheckpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: int,
) -> None:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path / "run", "tide_cross", **LONG)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    build, steps, more = pipeline.build_trainer, Steps(), [SignalAt(step)]
    monkeypatch.setattr(
        pipeline,
        "build_trainer",
        lambda *args, callbacks, **kwargs: build(*args, callbacks=[*callbacks, steps, *more], **kwargs),
    )
    assert main(["distill", str(tmp_path / "recipe.yaml")]) == 130
    more.clear()
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said == (
        f"tide distill: stopped after step {step} of 8, with a checkpoint in {tmp_path / 'run'}. "
        "Add --resume to go on."
    )
    assert checkpoints_in(tmp_path / "run")[-1].name == f"checkpoint-{step}"
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert not (tmp_path / "run" / "summary.json").exists()

    assert main(["distill", str(tmp_path / "recipe.yaml"), "--resume"]) == 0
    out, err = capsys.readouterr()
    assert f"{tmp_path / 'run'}: 8 steps in" in out
    assert f"going on from {tmp_path / 'run' / f'checkpoint-{step}'}\n" in err
    assert steps.trained == list(range(1, 9)), "every step once"
    assert main(["distill", str(tmp_path / "recipe.yaml"), f"training.output_dir={tmp_path / 'whole'}"]) == 0
    assert_same_bits(tmp_path / "run", tmp_path / "whole")
    assert learned(tmp_path / "run") == learned(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "step", "changes"),
    [
        # Micro-batches of 3, 3 and 2 rows: the second step of an epoch is a short one.
        ("none", 3, {"batch_size": 3, "gradient_accumulation_steps": 2}),
        ("kl", 6, {"precision": "bf16"}),
        ("calm", 3, {"gradient_checkpointing": True, "weight_decay": 0.1}),
        ("taid", 4, {"save_steps": 4}),  # On the border of two epochs.
    ],
)
def test_any_checkpoint_leads_to_the_same_end(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, method: str, step: int, changes: dict[str, object]
) -> None:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path / "whole", method, **{**LONG, **changes})
    distill(recipe)
    again = moved_back(recipe, tmp_path / "again", step)
    assert checkpoints_in(tmp_path / "again")[-1].name == f"checkpoint-{step}"
    steps = Steps()
    assert distill(again, resume=True, callbacks=[steps]).steps == 8
    assert steps.trained == list(range(step + 1, 9))
    assert_same_bits(tmp_path / "whole", tmp_path / "again")
    assert learned(tmp_path / "whole") == learned(tmp_path / "again")


def test_a_damaged_checkpoint_is_passed_over(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path / "whole", **LONG)
    distill(recipe)
    again = moved_back(recipe, tmp_path / "again", 6)
    damaged = tmp_path / "again" / "checkpoint-6"
    narrow = {name: value[:1] for name, value in weights(damaged).items()}
    save_file(narrow, damaged / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "again" / "checkpoint-best-12").mkdir()
    steps, said = Steps(), []
    assert distill(again, resume=True, callbacks=[steps], log=said.append).finished
    assert steps.trained == [4, 5, 6, 7, 8]
    passed_over, *rest = statuses(said)
    assert passed_over.startswith(f"passing over {damaged}: model.safetensors has ")
    assert rest == [f"going on from {tmp_path / 'again' / 'checkpoint-3'}"]
    assert_same_bits(tmp_path / "whole", tmp_path / "again")
    # What was damaged gives its name to the new one, and stays; so does what the run did not write.
    assert weights(tmp_path / "again" / "checkpoint-6.old-1").keys() == narrow.keys()
    assert (tmp_path / "again" / "checkpoint-best-12").is_dir()


def test_resuming_after_the_last_step_trains_no_further(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path
) -> None:
    # In the middle of an epoch, where the Trainer's loop would go on.
    recipe = tiny_recipe(tiny_checkpoints, tmp_path / "run", **{**LONG, "max_steps": 7})
    distill(recipe)
    before, logs = weights(tmp_path / "run"), learned(tmp_path / "run")
    for name in ("model.safetensors", "summary.json"):  # Killed after its last checkpoint.
        (tmp_path / "run" / name).unlink()
    result = distill(recipe, resume=True)
    assert (result.finished, result.steps) == (True, 7)
    after = weights(tmp_path / "run")
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert learned(tmp_path / "run") == logs
    assert checkpoints_in(tmp_path / "run")[-1].name == "checkpoint-7"


def test_a_finished_run_keeps_its_figures(finished: Recipe, tmp_path: Path) -> None:
    """`finished` fails where weights load again."""
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    said: list[str] = []
    result = distill(finished, resume=True, log=said.append)
    assert (result.finished, result.already_finished, result.steps, said) == (True, True, 2, [])
    assert (result.seconds, result.peak_memory_mib) == (summary["seconds"], summary["peak_memory_mib"])
    assert result.log_history == summary["log_history"]
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_held_out_figures_are_read_back(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    values = tiny_values(tiny_checkpoints, tmp_path / "run", max_steps=1)
    values["data"]["held_out"] = str(write_rows(tmp_path / "held_out.jsonl", ROWS[:3]))
    recipe, said = Recipe.from_dict(values), []
    first = distill(recipe, log=said.append)
    assert statuses(said) == [
        "evaluating the start on 3 held-out texts",
        "evaluating the student on 3 held-out texts",
    ]
    assert first.references.start.bound.nats_per_byte > first.held_out.bound.nats_per_byte
    assert distill(recipe, resume=True) == first.model_copy(update={"already_finished": True})


def test_a_resumed_run_reports_all_of_its_time_and_memory(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path
) -> None:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path / "run", **LONG)
    assert not distill(recipe, callbacks=[SignalAt(6)]).finished
    state = tmp_path / "run" / "checkpoint-6" / "trainer_state.json"
    values = json.loads(state.read_text())
    meter = values["stateful_callbacks"]["RunMeter"]["attributes"]
    assert meter["seconds"] > 0 and meter["peak_memory_mib"] > 0
    meter |= {"seconds": 1e6, "peak_memory_mib": 1e9}
    state.write_text(json.dumps(values))
    (state.parent / MANIFEST_FILE).unlink()
    publish(state.parent, state.parent.with_name("checkpoint-6.edited"))
    state.parent.with_name("checkpoint-6.edited").rename(state.parent)
    result = distill(recipe, resume=True, callbacks=[SignalAt(7)])
    assert 1e6 < result.seconds < 1e6 + 600 and result.peak_memory_mib == 1e9
    assert distill(recipe, resume=True).seconds > result.seconds, "over two interrupts"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["seconds"] > 1e6 and summary["peak_memory_mib"] == 1e9


def test_resuming_without_a_checkpoint_starts_from_the_beginning(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path
) -> None:
    said: list[str] = []
    started = distill(tiny_recipe(tiny_checkpoints, tmp_path / "one"), resume=True, log=said.append)
    assert statuses(said) == [f"no checkpoint in {tmp_path / 'one'}: starting from the beginning"]
    distill(tiny_recipe(tiny_checkpoints, tmp_path / "two"), log=said.append)
    assert started.steps == 3 and len(statuses(said)) == 1
    assert_same_bits(tmp_path / "one", tmp_path / "two")


@pytest.fixture(scope="module")
def finished_once(tiny_checkpoints: TinyCheckpoints, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path_factory.mktemp("once") / "run", max_steps=2, save_steps=1)
    distill(recipe)
    return recipe


@pytest.fixture
def finished(finished_once: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe of a finished run in `tmp_path / "run"`. Weights must not load after it."""
    shutil.copytree(finished_once.training.output_dir, tmp_path / "run")
    monkeypatch.setattr(
        pipeline, "load_model", lambda *args, **kwargs: pytest.fail("weights were loaded before the error")
    )
    return finished_once.replace(training={"output_dir": str(tmp_path / "run")})


def test_a_run_with_another_recipe_is_not_resumed(finished: Recipe, tmp_path: Path) -> None:
    before = (tmp_path / "run" / "recipe.yaml").read_text()
    changed = finished.replace(
        objective={"temperature": 3.0}, training={"learning_rate": 0.5, "max_steps": 1}
    )
    with pytest.raises(ValueError, match="differs from the run in") as caught:
        distill(changed, resume=True)
    assert (
        "at objective.temperature, training.learning_rate, training.max_steps (it has reached step 2)."
        in str(caught.value)
    )
    assert "Resume with that run's recipe.yaml, or name another training.output_dir." in str(caught.value)
    assert (tmp_path / "run" / "recipe.yaml").read_text() == before


def test_a_run_with_other_data_is_not_resumed(finished: Recipe, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ROWS[:-1])
    recipe = finished.replace(data={"train": str(rows)})
    (tmp_path / "run" / "recipe.yaml").write_text(
        recipe.to_yaml()
    )  # As if the file of that name had changed.
    with pytest.raises(ValueError, match=r"examples differ from those of the run.*the data or a tokenizer"):
        distill(recipe, resume=True)
    with pytest.raises(ValueError, match=r"examples differ from .* All else is fit to run\.$"):
        pipeline.check(recipe, resume=True)


def test_a_run_is_not_overwritten(finished: Recipe, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(ValueError, match=r"already holds checkpoint-2 of a run\. Pass --resume"):
        distill(finished)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_student_without_checkpoints_is_not_overwritten(finished: Recipe, tmp_path: Path) -> None:
    for checkpoint in checkpoints_in(tmp_path / "run"):
        shutil.rmtree(checkpoint)
    with pytest.raises(ValueError, match=r"already holds summary\.json of a run"):
        distill(finished)
    with pytest.raises(ValueError, match=r"is finished, and its checkpoints are gone\. Name another"):
        distill(finished, resume=True)


def test_an_output_directory_that_is_a_file_is_an_error(finished: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    recipe = finished.replace(training={"output_dir": str(tmp_path / "file")})
    with pytest.raises(ValueError, match=r"training\.output_dir .*file' is a file\. Name a directory\."):
        distill(recipe)
