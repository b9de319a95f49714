"""The noise of a micro-step is a function of seed, step, micro-step and rank, and of nothing before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.flow.recipes import tiny_recipe, trainer_of
from tests.training.recording import recorded

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tiny import TinyCheckpoints
    from tests.training.recording import Recorder


@pytest.fixture
def run(tiny_checkpoints: TinyCheckpoints, tmp_path: Path):
    """Trains by a recipe that differs in some training values, and gives the record."""

    def run(method: str = "none", resume_from: str | None = None, **training: object) -> Recorder:
        recipe = tiny_recipe(tiny_checkpoints, tmp_path / "run", method, **{"batch_size": 2, **training})
        return recorded(trainer_of(recipe), resume_from_checkpoint=resume_from)

    return run


def test_every_micro_step_draws_its_own(run) -> None:
    times = run(gradient_accumulation_steps=2).times
    assert len(times) == 6
    assert len({t for pair in times for t in pair}) == 12


def test_noise_depends_on_the_seed_and_not_on_the_weights(run) -> None:
    first, second = run(learning_rate=1e-5), run(learning_rate=1e-2, logging_steps=3)
    assert first.times == second.times
    for one, other in zip(first.noised, second.noised, strict=True):
        assert torch.equal(one.student.rows, other.student.rows)
        assert torch.equal(one.student.views, other.student.views)


def test_another_seed_draws_another(run) -> None:
    first, second = run(seed=0).times, run(seed=1).times
    assert not {t for pair in first for t in pair} & {t for pair in second for t in pair}


def test_a_step_does_not_depend_on_the_micro_steps_before_it(run) -> None:
    one, two = run(max_steps=2).times, run(max_steps=2, gradient_accumulation_steps=2).times
    assert len(two) == 4
    assert one == [two[0], two[2]]


def test_global_generators_are_not_read(run) -> None:
    first = run().times
    torch.manual_seed(1234)
    assert run().times == first


def test_methods_share_times_and_student_masks(run) -> None:
    records = [run(method, max_steps=2) for method in ("none", "kl", "tide_shared", "calm")]
    for record in records[1:]:
        for one, other in zip(records[0].noised, record.noised, strict=True):
            assert torch.equal(one.t, other.t)
            assert torch.equal(one.student.views, other.student.views)


@pytest.mark.parametrize("save_steps", [3, 6])  # Epochs of four steps: in the first epoch, and in the second.
def test_a_resumed_run_draws_what_the_first_would_have(run, tmp_path: Path, save_steps: int) -> None:
    whole = run(max_steps=8, save_steps=save_steps, save_total_limit=3)
    resumed = run(max_steps=8, resume_from=str(tmp_path / "run" / f"checkpoint-{save_steps}"))
    assert resumed.times == whole.times[save_steps:]
    for one, other in zip(resumed.noised, whole.noised[save_steps:], strict=True):
        assert torch.equal(one.student.token_ids, other.student.token_ids), "another order of data"
        assert torch.equal(one.student.views, other.student.views)


def test_an_epoch_shows_every_row_once_in_an_order_of_its_own(run) -> None:
    texts = [
        tuple(row[valid].tolist())
        for noised in run(max_steps=8).noised
        for row, valid in zip(noised.student.token_ids, noised.student.valid, strict=True)
    ]
    first, second = texts[:8], texts[8:]
    assert len(set(first)) == 8
    assert sorted(first) == sorted(second)
    assert first != second
