"""The trainer around the step: metrics, precision, the frozen teacher, and what it writes."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from tests.flow.recipes import tiny_recipe, trainer_of
from tests.training.recording import recorded
from tide.config import ObjectiveConfig
from tide.contract import Contract
from tide.losses.objective import Objective
from tide.methods import METHODS
from tide.models import DiffusionModel, load_model
from tide.training import DistillationModule, metrics
from tide.training.metrics import MetricMeans

if TYPE_CHECKING:
    from tests.tiny import TinyCheckpoints

DISTILLING = [name for name in METHODS if name != "none"]


@pytest.mark.parametrize("method", ["none", "tide_shared", "tide_cross"])
def test_logs_are_means_over_the_micro_steps_since_the_last(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, method: str
) -> None:
    recipe = tiny_recipe(
        tiny_checkpoints,
        tmp_path,
        method,
        max_steps=5,
        batch_size=2,
        gradient_accumulation_steps=2,
        logging_steps=2,
    )
    trainer = trainer_of(recipe)
    record = recorded(trainer)
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [2, 4]
    for entry, first in zip(logs, (0, 4), strict=True):
        outputs = record.outputs[first : first + 4]
        assert entry["loss"] == pytest.approx(sum(float(out.loss.detach()) for out in outputs) / 4, rel=1e-5)
        for name in outputs[0].metrics:
            mean = sum(float(out.metrics[name]) for out in outputs) / 4
            assert entry[name] == pytest.approx(mean, rel=1e-5), name
        assert 0 < entry["tokens_per_second"] < math.inf
    expected = {"tide_shared": {"tidal", "lambda"}, "tide_cross": {"reverse_calm", "active_chunks"}}
    sides = ("student",) if method == "none" else ("student", "teacher")
    counts = {f"{side}_{count}" for side in sides for count in ("tokens", "padding")}
    terms = {"cross_entropy"} | expected.get(method, set()) | counts
    assert terms == set(logs[0]) - {
        "loss",
        "grad_norm",
        "learning_rate",
        "epoch",
        "step",
        "tokens_per_second",
    }


@pytest.mark.parametrize("method", ["none", "kl", "tide_shared", "tide_cross", "tide_shared_chunks"])
def test_the_loss_is_the_weighted_sum_of_the_terms_beside_it(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, method: str
) -> None:
    # Eight rows: an epoch's steps have micro-batches of 3 and 3, and of 2. The second entry averages both.
    recipe = tiny_recipe(
        tiny_checkpoints,
        tmp_path,
        method,
        max_steps=5,
        batch_size=3,
        gradient_accumulation_steps=2,
        logging_steps=2,
    )
    trainer = trainer_of(
        recipe.replace(objective={"ce_weight": 0.3, "distill_weight": 2.5, "temperature": 2.0})
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [2, 4]
    term = METHODS[method].term
    for entry in logs:
        distilled = 2.5 * entry[term] if method != "none" else 0.0
        assert entry["loss"] == pytest.approx(0.3 * entry["cross_entropy"] + distilled, rel=1e-5)


@pytest.mark.parametrize(
    ("decay", "growth"),
    [("linear", [0.0, 0.25, 0.5, 0.75]), ("cosine", [0.0, 0.14644661, 0.5, 0.85355339])],
)
@pytest.mark.parametrize("method", ["taid", "tide_shared_chunks"])
def test_lambda_grows_with_the_steps_of_a_run(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, method: str, decay: str, growth: list[float]
) -> None:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path, method, max_steps=4, gradient_accumulation_steps=2)
    objective = {"lambda_init": 0.2, "lambda_max": 0.6, "lambda_decay": decay, "lambda_axis": "training"}
    trainer = trainer_of(recipe.replace(objective=objective))
    trainer.train()
    logged = [entry["lambda"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx([0.2 + 0.4 * share for share in growth], rel=1e-6)


def test_throughput_counts_the_students_tokens_without_padding(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0, 10)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    trainer = trainer_of(tiny_recipe(tiny_checkpoints, tmp_path, max_steps=2))
    record = recorded(trainer)
    logged = [entry["tokens_per_second"] for entry in trainer.state.log_history if "loss" in entry]
    valid = [int(noised.student.valid.sum()) for noised in record.noised]
    padded = [noised.student.valid.numel() for noised in record.noised]
    assert logged == [count / 10 for count in valid]
    assert all(count < size for count, size in zip(valid, padded, strict=True))


def test_metric_means_restart_after_every_reading() -> None:
    means = MetricMeans()
    assert means.pop(lambda values: values) == {}
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(10.0)}, 5)
    means.add({"a": torch.tensor(2.0), "b": torch.tensor(30.0)}, 7)
    first = means.pop(lambda values: values * 2)  # What stands in for the mean over ranks.
    assert (first["a"], first["b"]) == (3.0, 40.0)
    means.add({"a": torch.tensor(8.0)}, 1)
    second = means.pop(lambda values: values)
    assert second.keys() == {"a", "tokens_per_second"} and second["a"] == 8.0
    assert means.pop(lambda values: values) == {}


def test_adding_a_metric_leaves_the_callers_tensor_alone() -> None:
    means, value = MetricMeans(), torch.tensor(1.0)
    means.add({"a": value}, 1)
    means.add({"a": value}, 1)
    assert float(value) == 1.0


def test_a_loss_that_is_not_finite_stops_the_run(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_recipe(tiny_checkpoints, tmp_path, max_steps=9))
    trainer.args.learning_rate = 1e30  # which a recipe refuses
    with pytest.raises(ValueError, match=r"NaN or infinite at step 2; weights .*training\.learning_rate"):
        trainer.train()
    assert trainer.state.global_step < 9


@pytest.mark.parametrize("method", ["none", "kl", "tide_cross"])
def test_bf16_is_arithmetic_on_fp32_master_weights(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, method: str
) -> None:
    after: dict[str, list[torch.Tensor]] = {}
    for precision in ("fp32", "bf16"):
        trainer = trainer_of(
            tiny_recipe(tiny_checkpoints, tmp_path, method, max_steps=2, precision=precision)
        )
        seen = []
        student = trainer.module.student
        student.base_model.layers[0].mlp.up_proj.register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.append(output.dtype)
        )
        record = recorded(trainer)
        assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert {out.loss.dtype for out in record.outputs} == {torch.float32}
        assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
        states = [state for state in trainer.optimizer.state.values() if "exp_avg" in state]
        assert len(states) == len(list(student.parameters()))
        assert {state[name].dtype for state in states for name in ("exp_avg", "exp_avg_sq")} == {
            torch.float32
        }
        after[precision] = [parameter.detach() for parameter in student.parameters()]
    start = load_model(str(tiny_checkpoints.student), trainable=False).parameters()
    moved, apart = 0.0, 0.0
    for initial, full, half in zip(start, after["fp32"], after["bf16"], strict=True):
        moved += float((full - initial).square().sum())
        apart += float((half - full).square().sum())
        # Two AdamW steps of 1e-3; a bf16 weight near 1 moves in steps of 4e-3 or not at all.
        changed = half[half != initial]
        assert changed.numel() == 0 or not torch.equal(changed, changed.bfloat16().float())
    assert 0 < apart < 0.2 * moved


@pytest.mark.parametrize("method", DISTILLING)
def test_the_teacher_stays_as_it_was(tiny_checkpoints: TinyCheckpoints, tmp_path: Path, method: str) -> None:
    trainer = trainer_of(
        tiny_recipe(tiny_checkpoints, tmp_path, method, max_steps=2, learning_rate=1e-2, weight_decay=0.1)
    )
    teacher = trainer.module.teacher
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    recorded(trainer)
    assert teacher.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher.training
    of_teacher = {id(parameter) for parameter in teacher.parameters()}
    assert not of_teacher & {id(parameter) for parameter in trainer.module.parameters()}
    assert not of_teacher & {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}


def test_a_teacher_that_would_train_is_refused(tiny_checkpoints: TinyCheckpoints) -> None:
    student, teacher = (
        DiffusionModel(load_model(str(path), trainable=trainable), Contract(mask_id=1, block_size=8))
        for path, trainable in ((tiny_checkpoints.student, True), (tiny_checkpoints.teacher, False))
    )
    next(teacher.network.parameters()).requires_grad_(True)
    with pytest.raises(ValueError, match=r"teacher.* would train.*requires_grad_\(False\)"):
        DistillationModule(student, teacher, Objective(METHODS["kl"], ObjectiveConfig()))


def test_checkpoints_are_models_of_transformers(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    trainer = trainer_of(
        tiny_recipe(tiny_checkpoints, tmp_path / "run", "kl", max_steps=3, save_steps=2, learning_rate=1e-2)
    )
    at_step = {}

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            at_step[state.global_step] = {
                name: value.clone() for name, value in trainer.module.student.state_dict().items()
            }

    trainer.add_callback(Keep())
    trainer.train()
    trainer.save_model()
    folders = {2: tmp_path / "run" / "checkpoint-2", 3: tmp_path / "run"}
    for step, folder in folders.items():
        model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert model.lm_head.weight is model.model.embed_tokens.weight
        loaded = model.state_dict()
        assert loaded.keys() == at_step[step].keys()
        assert all(torch.equal(loaded[name], value) for name, value in at_step[step].items())
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert (tokenizer.mask_token_id, tokenizer.eos_token_id, len(tokenizer)) == (1, 0, 300)
    name = "model.norm.weight"
    assert not torch.equal(at_step[2][name], at_step[3][name])


def test_weights_of_another_student_are_refused(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_recipe(tiny_checkpoints, tmp_path))
    weights = dict(trainer.module.student.state_dict())
    weights["model.extra.weight"] = weights.pop("model.norm.weight")
    trainer.module.student.save_pretrained(tmp_path / "other", state_dict=weights)
    with pytest.raises(ValueError, match=r"not this student's.*model\.norm\.weight.*model\.extra\.weight"):
        trainer._load_from_checkpoint(str(tmp_path / "other"))


@pytest.mark.parametrize("family", ["llada", "llada2", "sdar"])
def test_a_checkpoint_under_the_makers_names_is_read_back(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, family: str
) -> None:
    trainer = trainer_of(tiny_recipe(tiny_checkpoints, tmp_path))
    golden = Path(__file__).parents[1] / "models" / "golden" / family
    student = trainer.module.student = load_model(str(golden), trainable=True)
    saved = {name: value.clone() for name, value in student.state_dict().items()}
    trainer.save_model(str(tmp_path / "checkpoint"))
    for parameter in student.parameters():
        torch.nn.init.zeros_(parameter)
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint"))
    assert all(torch.equal(value, saved[name]) for name, value in student.state_dict().items())
