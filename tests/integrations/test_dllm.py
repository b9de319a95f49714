"""The official losses under their own signatures, against stored results of the official run and of exact
arithmetic."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch

from tide.integrations.dllm import chunk_ids_from_matrix, compute_alm_loss, compute_taid_loss, log1mexp

GOLDEN = Path(__file__).parents[1] / "golden"
EPS32 = torch.finfo(torch.float32).eps
TAID = [f"taid_{i}" for i in range(4)]
ALM = [f"alm_{i}" for i in range(3)]
LOSSES = {"taid": compute_taid_loss, "alm": compute_alm_loss}
RESULTS = ("official_loss", "official_grad", "exact_loss", "exact_grad")


def load(name, dtype=torch.float32):
    """Arguments of the official function, by its names, and the stored results."""
    with numpy.load(GOLDEN / f"{name}.npz") as file:
        data = {key: file[key] for key in file.files}
    case = {key: torch.from_numpy(value) if value.ndim else value.item() for key, value in data.items()}
    if "config" in case:
        case["config"] = json.loads(case["config"])
    case["student_logits"] = case["student_logits"].to(dtype).requires_grad_()
    case["teacher_logits"] = case["teacher_logits"].to(dtype)
    return case, SimpleNamespace(**{key: case.pop(key) for key in RESULTS})


def run(name, dtype=torch.float32, **options):
    case, stored = load(name, dtype)
    loss = LOSSES[name.split("_")[0]](**(case | options))
    (gradient,) = torch.autograd.grad(loss, [case["student_logits"]])
    assert loss.shape == () and loss.dtype == torch.float32
    return float(loss.detach()), gradient, stored


def error(actual, expected):
    return float((actual.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("name", TAID + ALM)
def test_exact_to_fp32_rounding(name, backend):
    loss, gradient, stored = run(name, backend=backend)
    assert abs(loss / stored.exact_loss - 1) < 16 * EPS32
    assert error(gradient, stored.exact_grad) < 32 * EPS32


@pytest.mark.parametrize("name", TAID + ALM)
def test_the_official_rounding(name):
    """As close to the official fp32 run as its own arithmetic on another processor would be."""
    loss, gradient, stored = run(name, exact=False)
    # A sum of terms that nearly cancel: its rounding is that of the terms, not of the sum.
    assert abs(loss - stored.official_loss) <= 4 * EPS32 * max(1.0, stored.official_loss)
    official_error = error(stored.official_grad, stored.exact_grad)
    assert error(gradient, stored.official_grad.double()) < max(16 * EPS32, 2 * official_error)


def test_exact_is_more_accurate_than_the_official_rounding():
    """At the smallest stored loss the official gradient is off by 3e-5 of its largest entry."""
    (_, exact, stored), (_, official, _) = run("taid_1"), run("taid_1", exact=False)
    assert error(official, stored.exact_grad) > 100 * error(exact, stored.exact_grad)


@pytest.mark.parametrize("name", [*TAID, *ALM])
def test_bf16_logits_are_read_as_they_are(name):
    loss, gradient, _ = run(name, torch.bfloat16)
    case, _ = load(name, torch.bfloat16)
    for key in ("student_logits", "teacher_logits"):
        case[key] = case[key].detach().float()
    student = case["student_logits"].requires_grad_()
    wanted = LOSSES[name.split("_")[0]](**case)
    (wanted_gradient,) = torch.autograd.grad(wanted, [student])
    assert abs(loss / float(wanted.detach()) - 1) < 4 * EPS32
    assert gradient.dtype == torch.bfloat16
    assert error(gradient, wanted_gradient.double()) < torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize(("name", "apart"), [("taid_2", True), ("taid_0", False), ("alm_0", True)])
def test_the_official_rounding_of_bf16_logits(name, apart):
    """It divides by T, and sums token log-probabilities, in bf16; division by T = 2 rounds nothing."""
    loss, _, _ = run(name, torch.bfloat16, exact=False)
    case, _ = load(name, torch.bfloat16)
    for key in ("student_logits", "teacher_logits"):
        case[key] = case[key].detach().float()
    widened = float(LOSSES[name.split("_")[0]](**case, exact=False).detach())
    assert (abs(loss / widened - 1) > 1e-4) == apart
    assert abs(loss / widened - 1) < 0.05


def test_official_rounding_divides_by_the_temperature_before_fp32():
    case, _ = load("taid_2", torch.bfloat16)
    temperature = case["config"]["temperature"]
    loss = compute_taid_loss(**case, exact=False).detach()
    for key in ("student_logits", "teacher_logits"):
        case[key] = (case[key].detach() / temperature).float()
    case["config"]["temperature"] = 1.0
    divided = compute_taid_loss(**case, exact=False)
    assert abs(float(loss / (divided * temperature**2)) - 1) < 4 * EPS32


def test_official_rounding_floors_the_target_under_its_logarithm():
    """Equal sides, and a tail of 4095 entries at p = 2.5e-9: the loss is 0, the official one is not."""
    p, num_tail = 2.5e-9, 4095
    logits = torch.zeros(1, 1, num_tail + 1)
    logits[..., 0] = math.log((1 - num_tail * p) / p)
    case = (
        logits,
        logits,
        torch.ones(1, 1, dtype=torch.bool),
        torch.tensor([0.5]),
        {"temperature": 1.0},
        1,
        2,
    )
    assert float(compute_taid_loss(*case)) == 0.0
    floored = num_tail * p * math.log(1e-8 / p)
    assert abs(float(compute_taid_loss(*case, exact=False)) / floored - 1) < 0.02


def test_config_is_a_mapping_or_an_object_with_official_defaults():
    case, _ = load("taid_0")
    case["config"] = {}
    loss = compute_taid_loss(**case)
    written = {
        "lambda_init": 0.1,
        "lambda_max": 0.9,
        "lambda_decay": "cosine",
        "timestep_weight": "uniform",
        "shared_vocab_size": None,
        "temperature": 2.0,
        "axis_mode": "both",
    }
    for config in (written, SimpleNamespace(**written), SimpleNamespace()):
        assert torch.equal(compute_taid_loss(**(case | {"config": config})), loss)
    for key, value in {"lambda_init": 0.2, "temperature": 1.0, "axis_mode": "timestep_only"}.items():
        for config in ({key: value}, SimpleNamespace(**{key: value})):
            assert not torch.equal(compute_taid_loss(**(case | {"config": config})), loss)


@pytest.mark.parametrize("exact", [True, False])
def test_shared_vocab_size_cuts_both_sides(exact):
    case, _ = load("taid_0")
    for wide in (257, 300):
        case["config"]["shared_vocab_size"] = wide
        assert float(compute_taid_loss(**case, exact=exact).detach()) > 0
    case["config"]["shared_vocab_size"] = 200
    cut = compute_taid_loss(**case, exact=exact)
    case["teacher_logits"] = torch.nn.functional.pad(case["teacher_logits"], (0, 40), value=9.0)
    assert torch.equal(compute_taid_loss(**case, exact=exact), cut)
    for shared in (None, 280):
        case["config"]["shared_vocab_size"] = shared
        with pytest.raises(ValueError, match=r"have 257 and 297 entries.*Set shared_vocab_size"):
            compute_taid_loss(**case, exact=exact)


def test_lambda_stays_at_its_maximum_past_the_last_step():
    case, _ = load("taid_2")
    at_the_end = compute_taid_loss(**(case | {"global_step": 100}))
    assert torch.equal(compute_taid_loss(**(case | {"global_step": 130})), at_the_end)
    assert torch.isfinite(compute_taid_loss(**(case | {"global_step": 0, "max_steps": 0})))


def test_unknown_axis_is_an_error():
    case, _ = load("taid_0")
    with pytest.raises(ValueError, match="axis_mode must be one of both, training_only, timestep_only"):
        compute_taid_loss(**(case | {"config": {"axis_mode": "training"}}))


@pytest.mark.parametrize("exact", [True, False])
def test_nothing_masked_is_zero_with_a_graph(exact):
    taid, _ = load("taid_0")
    taid["masked_mask"] = torch.zeros_like(taid["masked_mask"])
    alm, _ = load("alm_2")
    alm["chunk_mask"] = torch.zeros_like(alm["chunk_mask"])
    none = {key: value[..., :0] for key, value in alm.items() if "matrix" in key or key.startswith("chunk_")}
    for case in (taid, alm, alm | none):
        function = compute_taid_loss if case is taid else compute_alm_loss
        loss = function(**case, exact=exact)
        (gradient,) = torch.autograd.grad(loss, [case["student_logits"]])
        assert float(loss.detach()) == 0.0 and not gradient.any()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", ["taid_0", "alm_0", "alm_1"])
def test_a_teacher_with_a_graph_gets_no_gradient(name, exact):
    case, _ = load(name)
    teacher = case["teacher_logits"].requires_grad_()
    LOSSES[name.split("_")[0]](**case, exact=exact).backward()
    assert teacher.grad is None and case["student_logits"].grad.abs().max() > 0


def test_tokens_of_no_active_chunk_are_not_read():
    case, stored = load("alm_0")
    active = case["alignment_matrix_student"] & case["chunk_mask"][:, None]
    case["student_logits"].data[~active.any(-1)] = torch.nan
    case["student_input_ids"][~active.any(-1)] = -100
    assert abs(float(compute_alm_loss(**case).detach()) / stored.exact_loss - 1) < 16 * EPS32


def with_two_chunks(case, side):
    matrix = case[f"alignment_matrix_{side}"] = case[f"alignment_matrix_{side}"].clone()
    token = int(matrix[1].any(-1).nonzero()[0])
    matrix[1, token] = torch.tensor([False, True, True, False, False])
    return token


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_token_in_two_chunks_is_an_error_unless_exact_is_false(side):
    case, _ = load("alm_0")
    token = with_two_chunks(case, side)
    message = f"alignment_matrix_{side}, token {token} of sequence 1 belongs to chunks 1, 2"
    with pytest.raises(ValueError, match=message):
        compute_alm_loss(**case)
    with pytest.raises(ValueError, match="belongs to chunks 1, 2"):
        chunk_ids_from_matrix(case[f"alignment_matrix_{side}"])
    assert torch.isfinite(compute_alm_loss(**case, exact=False))


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_active_chunk_without_tokens_is_an_error_or_dropped(side):
    case, _ = load("alm_2")
    matrix = case[f"alignment_matrix_{side}"] = case[f"alignment_matrix_{side}"].clone()
    matrix[0, :, 2] = False
    assert case["chunk_mask"][0, 2]
    with pytest.raises(ValueError, match=f"active chunk 2 of sequence 0 has no {side} token"):
        compute_alm_loss(**case)
    dropped = compute_alm_loss(**case, empty_chunks="drop")
    published = compute_alm_loss(**case, exact=False)
    case["chunk_mask"][0, 2] = False
    assert torch.equal(compute_alm_loss(**case), dropped)
    # The official code takes its likelihood for 1: another loss.
    assert abs(float(published.detach()) / float(dropped.detach()) - 1) > 1e-2
    with pytest.raises(ValueError, match="empty_chunks must be one of error, drop"):
        compute_alm_loss(**case, empty_chunks="skip")


def test_chunk_weights_broadcast():
    case, _ = load("alm_0")
    per_chunk = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])
    for exact in (True, False):
        wide = compute_alm_loss(**case, chunk_weights=per_chunk.expand(2, 5), exact=exact)
        assert torch.equal(compute_alm_loss(**case, chunk_weights=per_chunk, exact=exact), wide)


def test_chunk_ids_match_the_matrix():
    ids = torch.tensor([[0, 0, -1, 2, 1], [3, -1, -1, 0, 3]])
    matrix = ids[..., None] == torch.arange(4)
    assert torch.equal(chunk_ids_from_matrix(matrix), ids)
    transposed = matrix.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(chunk_ids_from_matrix(transposed), ids)
    assert torch.equal(chunk_ids_from_matrix(matrix[..., :0]), torch.full((2, 5), -1))
    assert chunk_ids_from_matrix(matrix[:, :0]).shape == (2, 0)


def test_non_boolean_matrix_is_an_error():
    case, _ = load("alm_0")
    matrix = case["alignment_matrix_student"]
    with pytest.raises(ValueError, match=r"matrix must be bool \[B, L, C\].*got torch.float32"):
        chunk_ids_from_matrix(matrix.float())
    with pytest.raises(ValueError, match=r"alignment_matrix_student must be bool.*\(14, 5\)"):
        compute_alm_loss(**(case | {"alignment_matrix_student": matrix[0]}))
    for chunk_mask in (case["chunk_mask"].int(), case["chunk_mask"][:, 1:]):
        with pytest.raises(ValueError, match=r"chunk_mask must be bool of shape \(2, 5\)"):
            compute_alm_loss(**(case | {"chunk_mask": chunk_mask}))


def test_log1mexp_keeps_its_digits_on_both_sides():
    x = torch.tensor([-30.0, -5.0, -1.0, -0.6932, -0.6931, -0.1, -1e-3, -1e-6, -1e-30])
    wide = x.double()
    truth = torch.where(wide < -0.7, torch.log1p(-wide.exp()), torch.log(-torch.expm1(wide)))
    assert float((log1mexp(x) / truth - 1).abs().max()) < 4 * EPS32
    # The official branches are exchanged: e^-30 is lost beside 1, and so are -1e-6 and -1e-30.
    official = log1mexp(x, exact=False)
    assert float((official / truth - 1)[1:7].abs().max()) < 1e-4
    assert official[0] == 0.0 and abs(float(official[7] / truth[7]) - 1) > 5e-4 and official[8] == -torch.inf


@pytest.mark.parametrize("exact", [True, False])
def test_log1mexp_at_zero_and_its_slope(exact):
    assert bool((log1mexp(torch.zeros(3), exact=exact) == -torch.inf).all())
    x = torch.tensor([-20.0, -2.0, -0.6932, -0.6931, -0.01], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(log1mexp(x, exact=exact).sum(), [x])
    assert error(slope, -1 / torch.expm1(-x.detach())) < 1e-12
