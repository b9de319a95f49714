"""NaN and infinity: noticed before anything is saved, with their step, values, examples and weights."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from tests.flow.recipes import tiny_recipe, tiny_values, trainer_of
from tide.cli.main import main
from tide.evaluation import HeldOutLikelihood, LikelihoodBound
from tide.pipeline import RunSummary
from tide.training.checkpoints import checkpoints_in, latest_complete_checkpoint
from tide.training.metrics import NonFinite, non_finite_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.tiny import TinyCheckpoints
    from tide.training import DistillationTrainer

STEP = 3  # the step that breaks, between two log entries and two checkpoints
LOGGED = {
    "max_steps": 9,
    "logging_steps": 6,
    "save_steps": 2,
    "batch_size": 3,
    "gradient_accumulation_steps": 2,
}


def break_a_row(trainer: DistillationTrainer) -> None:
    objective = trainer.module.objective

    def broken(student: Any, teacher: Any, noised: Any, progress: float) -> Any:
        if trainer.state.global_step == STEP - 1:
            ours = noised.student.rows < noised.loss_mask.shape[1]  # of the first example
            student = student._replace(hidden=torch.where(ours[:, None], math.nan, student.hidden))
        return objective(student, teacher, noised, progress)

    trainer.module.objective = broken


def break_the_gradient(trainer: DistillationTrainer) -> None:
    def broken(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.inf if trainer.state.global_step == STEP - 1 else gradient

    trainer.module.student.model.norm.weight.register_hook(broken)


def break_a_weight(trainer: DistillationTrainer) -> None:
    class Break(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == STEP + 1:  # no later step reads it before the checkpoint
                trainer.module.student.model.norm.weight.data[0] = math.nan

    trainer.add_callback(Break())


@pytest.mark.parametrize("method", ["none", "kl", "tide_cross"])
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (break_a_row, r"loss, cross_entropy.* NaN or infinite at step 3, in 2 of its examples"),
        (break_the_gradient, r"gradient NaN or infinite at step 3"),
        (break_a_weight, r": weights NaN or infinite by step 4: model\.norm\.weight\."),
    ],
)
def test_a_run_stops_before_it_saves(
    tiny_checkpoints: TinyCheckpoints,
    tmp_path: Path,
    method: str,
    damage: Callable[[DistillationTrainer], None],
    what: str,
) -> None:
    trainer = trainer_of(tiny_recipe(tiny_checkpoints, tmp_path, method, **LOGGED))
    damage(trainer)
    with pytest.raises(ValueError, match=what) as caught:
        trainer.train()
    assert "\n" not in str(caught.value)
    assert trainer.state.global_step == 4
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-2"]
    whole = latest_complete_checkpoint(tmp_path)
    assert whole is not None
    assert all(value.isfinite().all() for value in load_file(whole / "model.safetensors").values())


def test_the_last_step_is_read_too(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_recipe(tiny_checkpoints, tmp_path, **LOGGED | {"max_steps": STEP}))

    class Break(TrainerCallback):
        def on_train_end(self, *arguments: Any, **kwargs: Any) -> None:
            trainer.module.student.model.norm.weight.data[0] = math.inf

    trainer.add_callback(Break())
    with pytest.raises(ValueError, match=r"weights NaN or infinite by step 3: model\.norm\.weight"):
        trainer.train()


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_weight_file_that_is_not_finite_is_named(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str], role: str
) -> None:
    values = tiny_values(tiny_checkpoints, tmp_path / "run", "kl")
    folder = tmp_path / role
    folder.mkdir()
    for path in getattr(tiny_checkpoints, role).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][1, 2] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    values[role]["path"] = str(folder)
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    assert main(["distill", str(tmp_path / "recipe.yaml")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"the {role}'s weights in '{folder}' are NaN or infinite" in error
    assert "(model.layers.0.mlp.up_proj.weight)" in error
    assert not (tmp_path / "run" / "summary.json").exists() and not checkpoints_in(tmp_path / "run")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_entry_of_any_dtype_is_found(value: float, dtype: torch.dtype) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 7, bias=False)).to(dtype)
    assert non_finite_weights(model) == []
    model[1].weight.data[6, 29] = value
    assert non_finite_weights(model) == ["1.weight"]
    assert non_finite_weights(torch.nn.Sequential()) == []


def test_the_first_step_of_all_ranks_counts_with_its_examples() -> None:
    one, other = (NonFinite(torch.device("cpu")) for _ in range(2))
    nan, fine = torch.tensor(math.nan), torch.tensor(1.0)
    sent: list[torch.Tensor] = []
    for step in range(1, 5):
        for watch, breaks in ((one, 3), (other, 2)):
            bad = step >= breaks
            watch.watch({"loss": nan if bad else fine, "tidal": fine}, step, torch.tensor(4 if bad else 0))
            watch.watch({"loss": fine, "tidal": nan if bad else fine}, step, torch.tensor(1 if bad else 0))
            watch.watch({"gradient": nan if bad else fine}, step)
    assert one.first(0, lambda own: sent.append(own) or own) == (3, ["loss", "tidal", "gradient"], 5)
    assert other.first(0, lambda own: torch.cat([sent[0], own])) == (2, ["loss", "tidal", "gradient"], 5)


def test_a_gradient_before_the_loss_has_no_examples() -> None:
    watch = NonFinite(torch.device("cpu"))
    for step in (1, 2):
        watch.watch(
            {"loss": torch.tensor(1.0 if step == 1 else math.nan)}, step, torch.tensor(4 * (step - 1))
        )
        watch.watch({"gradient": torch.tensor(math.inf)}, step)
    assert watch.first(0, lambda own: own) == (1, ["gradient"], 0)


def test_a_summary_is_valid_json(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    held_out = HeldOutLikelihood(
        bound=LikelihoodBound(nats_per_byte=math.nan, standard_error=None, mask_error=math.inf),
        nats_per_byte={0.5: math.nan},
        accuracy={0.5: math.inf},
        num_tokens=1,
        num_bytes=1,
        num_texts=1,
    )
    summary = RunSummary(
        method="none", steps=1, seconds=1.0, peak_memory_mib=1.0, held_out=held_out, log_history=[]
    )
    written = json.loads(summary.model_dump_json(), parse_constant=pytest.fail)["held_out"]
    assert written["bound"] == dict.fromkeys(("nats_per_byte", "standard_error", "mask_error"))
    assert (written["nats_per_byte"], written["accuracy"]) == ({"0.5": None}, {"0.5": None})
