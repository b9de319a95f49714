"""Every setting of a recipe reaches its part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.flow.recipes import tiny_recipe, tiny_values, trainer_of
from tide.config import Recipe
from tide.methods import METHODS
from tide.pipeline import distill
from tide.training import build
from tide.training.build import training_arguments

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tiny import TinyCheckpoints


@pytest.fixture
def values(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> dict:
    return tiny_values(tiny_checkpoints, tmp_path / "run", "tidal")


def test_the_objective_has_the_recipes_method_and_section(values: dict) -> None:
    recipe = Recipe.from_dict({**values, "objective": {"temperature": 3.0, "lambda_axis": "timestep"}})
    objective = trainer_of(recipe).module.objective
    assert (objective.method, objective.settings) == (METHODS["tidal"], recipe.objective)
    assert objective.settings.temperature == 3.0


def test_models_have_the_recipes_attention(values: dict) -> None:
    teacher = {**values["teacher"], "attn_implementation": "flex_attention"}
    module = trainer_of(Recipe.from_dict({**values, "teacher": teacher})).module
    assert module.student.config._attn_implementation == "sdpa"
    assert module.teacher.config._attn_implementation == "flex_attention"


def test_an_attention_that_does_not_fit_is_an_error(values: dict) -> None:
    teacher = {**values["teacher"], "attn_implementation": "flash_attention_2"}
    with pytest.raises(ValueError, match=r"^teacher: set_attention: flash_attention_2"):
        trainer_of(Recipe.from_dict({**values, "teacher": teacher}))


def test_noiser_has_the_recipes_masking_and_method(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path / "run", "tide_shared")
    recipe = recipe.replace(masking={"time_epsilon": 0.01, "demo_ratio": 0.3})
    noiser = trainer_of(recipe).noiser
    assert (noiser.masking, noiser.method) == (recipe.masking, METHODS["tide_shared"])
    assert (noiser.student.mask_id, noiser.teacher.mask_id) == (1, 1)


def test_the_trainer_has_the_recipes_arguments(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        tiny_checkpoints,
        tmp_path / "run",
        max_steps=37,
        batch_size=3,
        gradient_accumulation_steps=5,
        learning_rate=2e-4,
        warmup_ratio=0.1,
        lr_scheduler="linear",
        weight_decay=0.3,
        max_grad_norm=0.7,
        seed=11,
        logging_steps=13,
        save_steps=17,
        save_total_limit=4,
    )
    args = trainer_of(recipe).args
    assert args.ddp_find_unused_parameters is False, "transformers would search at every step"
    assert (args.max_steps, args.per_device_train_batch_size, args.gradient_accumulation_steps) == (37, 3, 5)
    assert (args.learning_rate, args.weight_decay, args.max_grad_norm) == (2e-4, 0.3, 0.7)
    assert args.get_warmup_steps(37) == 4  # Rounded up from 3.7.
    assert args.lr_scheduler_type == "linear"
    assert (args.seed, args.data_seed) == (11, 11)
    assert (args.logging_steps, args.save_steps, args.save_total_limit) == (13, 17, 4)
    assert args.report_to == [] and not args.bf16
    assert args.n_gpu <= 1, "a batch is never copied to several devices"


def test_other_arguments_are_passed_on(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    given = {"optim": "adafactor", "adam_beta2": 0.95, "logging_first_step": True, "save_strategy": "epoch"}
    given |= {"warmup_steps": 7, "dataloader_drop_last": True, "hub_model_id": "me/student"}
    recipe = tiny_recipe(
        tiny_checkpoints, tmp_path / "run", max_steps=None, num_train_epochs=1.5, warmup_ratio=1.0, **given
    )
    args = training_arguments(recipe)
    assert {name: getattr(args, name) for name in given} == given
    assert (args.num_train_epochs, args.max_steps, args.get_warmup_steps(100)) == (1.5, -1, 7)
    whole = training_arguments(recipe.replace(training={"warmup_steps": None}))
    assert whole.get_warmup_steps(100) == 100
    assert not (tmp_path / "run").exists()


def test_arguments_that_transformers_refuses_name_the_section(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(tiny_checkpoints, tmp_path / "run", optim="adamm")
    with pytest.raises(ValueError, match=r"training: .*adamm.* is not a valid OptimizerNames"):
        training_arguments(recipe)
    monkeypatch.setattr(build, "fields", lambda kind: [])
    with pytest.raises(ValueError, match=r"training\.\w+: transformers .* has no such argument"):
        training_arguments(recipe)


def test_a_run_over_epochs_reaches_their_end(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        tiny_checkpoints, tmp_path, max_steps=None, num_train_epochs=2, save_strategy="epoch"
    )
    result = distill(recipe)
    assert result.finished and result.steps == result.max_steps == 4  # eight rows in batches of four
    again = distill(recipe, resume=True)
    assert again == result.model_copy(update={"already_finished": True})


def test_the_learning_rate_warms_up_and_decays(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        tiny_checkpoints,
        tmp_path,
        max_steps=6,
        learning_rate=1e-3,
        warmup_ratio=1 / 3,
        lr_scheduler="linear",
    )
    trainer = trainer_of(recipe)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates == pytest.approx([0.0, 5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_batches_are_padded_to_whole_blocks(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_recipe(tiny_checkpoints, tmp_path, "tide_cross"))
    examples = [trainer.train_dataset[index] for index in range(3)]
    batch = trainer.data_collator(examples)["batch"]
    for side, name in ((batch.student, "student"), (batch.teacher, "teacher")):
        longest = max(len(getattr(example, name).token_ids) for example in examples)
        assert side.token_ids.shape == (3, -(-longest // 8) * 8)
