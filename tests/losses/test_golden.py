"""The losses against stored results of the published objectives: exact arithmetic and the official fp32 run.

Each file of tests/golden holds inputs, the loss and its gradient with respect to the student's logits.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch

from tide.losses import (
    calm_loss,
    forward_kl_loss,
    lambda_schedule,
    reverse_calm_loss,
    reverse_kl_loss,
    tidal_chunk_loss,
    tidal_loss,
    timestep_weight,
    token_log_probs,
)

GOLDEN = Path(__file__).parents[1] / "golden"
EPS32 = torch.finfo(torch.float32).eps
AXES = {"both": "both", "training_only": "training", "timestep_only": "timestep"}


def load(name):
    with numpy.load(GOLDEN / f"{name}.npz") as file:
        data = {key: file[key] for key in file.files}
    return {key: torch.from_numpy(value) if value.ndim else value.item() for key, value in data.items()}


def chunk_ids(matrix):
    """Dense [B, L, C] membership as [B, L] ids, -1 for none."""
    return torch.where(matrix.any(-1), matrix.int().argmax(-1), -1)


def tidal(case, student, **options):
    config = json.loads(case["config"])
    progress = case["global_step"] / case["max_steps"]
    lambda_t = lambda_schedule(
        case["t"],
        progress,
        lambda_init=config["lambda_init"],
        lambda_max=config["lambda_max"],
        decay=config["lambda_decay"],
        axis=AXES[config["axis_mode"]],
    )
    weight = timestep_weight(case["t"], config["timestep_weight"])
    if "entropy_weights" in case:
        weight = weight[:, None] * case["entropy_weights"]
    return tidal_loss(
        student,
        case["teacher_logits"],
        case["masked_mask"],
        lambda_t=lambda_t,
        temperature=config["temperature"],
        weight=weight,
        vocab_size=config["shared_vocab_size"],
        **options,
    )


def kl(case, student, **options):
    loss = reverse_kl_loss if case["reverse"] else forward_kl_loss
    return loss(
        student,
        case["teacher_logits"],
        case["masked_mask"],
        temperature=case["temperature"],
        vocab_size=case["shared_vocab_size"],
        **options,
    )


def chunks(case, student, **options):
    in_chunk = [case[f"alignment_matrix_{side}"].any(-1) for side in ("student", "teacher")]
    arguments = (
        token_log_probs(student, case["student_input_ids"], in_chunk[0], **options),
        token_log_probs(case["teacher_logits"], case["teacher_input_ids"], in_chunk[1], **options),
        chunk_ids(case["alignment_matrix_student"]),
        chunk_ids(case["alignment_matrix_teacher"]),
        case["chunk_mask"],
    )
    options["temperature"] = case["temperature"]
    if "config" not in case:
        loss = reverse_calm_loss if case["reverse"] else calm_loss
        return loss(*arguments, chunk_weights=case.get("chunk_weights"), **options)
    config = json.loads(case["config"])
    lambda_t = lambda_schedule(
        case["t"],
        case["global_step"] / case["max_steps"],
        decay=config.get("decay", "cosine"),
        axis=AXES[config.get("axis", "both")],
    )
    weight = timestep_weight(case["t"], config.get("tw", "uniform"))
    return tidal_chunk_loss(*arguments, lambda_t=lambda_t, chunk_weights=weight, **options)


LOSSES = {"taid": tidal, "kl": kl, "alm": chunks, "alm_taid": chunks}
CASES = [f"taid_{i}" for i in range(4)] + [f"kl_{i}" for i in range(3)]
CASES += [f"alm_{i}" for i in range(3)] + [f"alm_taid_{i}" for i in range(2)]


def run(name, dtype=torch.float32, **options):
    case = load(name)
    for key in ("student_logits", "teacher_logits"):
        case[key] = case[key].to(dtype)
    student = case["student_logits"].requires_grad_()
    loss = LOSSES[name.rsplit("_", 1)[0]](case, student, **options)
    (gradient,) = torch.autograd.grad(loss, [student])
    return case, loss.detach(), gradient


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_exact_to_fp32_rounding(name, backend):
    case, loss, gradient = run(name, backend=backend)
    bound, gradient_bound = 16 * EPS32, 32 * EPS32
    if backend == "reference":
        # The definition subtracts nearly equal log-probabilities: in fp32 it is as good as the official run.
        bound = max(bound, 2 * abs(case["official_loss"] / case["exact_loss"] - 1))
        gradient_bound = 2e-4
    assert loss.dtype == torch.float32
    assert abs(float(loss) / case["exact_loss"] - 1) < bound
    scale = case["exact_grad"].abs().max()
    assert float((gradient - case["exact_grad"]).abs().max() / scale) < gradient_bound


@pytest.mark.parametrize("name", CASES)
def test_the_definition_in_fp64_is_exact(name):
    case, loss, gradient = run(name, torch.float64, backend="reference")
    # The schedules are fp32, since t is: their rounding is what remains.
    assert abs(float(loss) / case["exact_loss"] - 1) < 2e-6
    assert float((gradient - case["exact_grad"]).abs().max() / case["exact_grad"].abs().max()) < 2e-6


@pytest.mark.parametrize("name", CASES)
def test_at_least_as_close_as_the_official_run(name):
    case, loss, gradient = run(name)
    floor = 4 * EPS32
    assert abs(float(loss) / case["exact_loss"] - 1) <= floor + abs(
        case["official_loss"] / case["exact_loss"] - 1
    )
    scale = case["exact_grad"].abs().max()
    official = float((case["official_grad"] - case["exact_grad"]).abs().max() / scale)
    assert float((gradient - case["exact_grad"]).abs().max() / scale) <= 16 * EPS32 + official


@pytest.mark.parametrize("name", ["taid_0", "kl_0", "kl_2"])
def test_leaving_out_the_last_column_would_show(name):
    """The bound above is tight enough to catch a kernel that stops one column early."""
    case = load(name)
    student = case["student_logits"]
    case["teacher_logits"] = case["teacher_logits"][..., :-1]
    cut = LOSSES[name.rsplit("_", 1)[0]]({**case, "shared_vocab_size": 256}, student[..., :-1])
    assert abs(float(cut) / case["exact_loss"] - 1) > 16 * EPS32
