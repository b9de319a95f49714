"""TIDAL, forward and reverse KL, over logits and over hidden states: shapes, masks, weights, errors.

The rows themselves are tested with the ops; here every expected value is a plain formula in fp64.
"""

from __future__ import annotations

import pytest
import torch

from tide.losses import (
    DivergenceLoss,
    forward_kl_loss,
    linear_forward_kl_loss,
    linear_reverse_kl_loss,
    linear_tidal_loss,
    reverse_kl_loss,
    tidal_loss,
)

EPS32 = torch.finfo(torch.float32).eps
B, L, V = 3, 5, 37
NAMES = ("tidal", "forward_kl", "reverse_kl")
LOGITS = {"tidal": tidal_loss, "forward_kl": forward_kl_loss, "reverse_kl": reverse_kl_loss}
LINEAR = {
    "tidal": linear_tidal_loss,
    "forward_kl": linear_forward_kl_loss,
    "reverse_kl": linear_reverse_kl_loss,
}


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    data = {
        "student_hidden": normal(B, L, 8).requires_grad_(),
        "student_weight": normal(V, 8).requires_grad_(),
        "teacher_hidden": normal(B, L, 12),
        "teacher_weight": normal(V, 12),
        "mask": torch.rand(B, L, generator=generator) < 0.6,
        "lambda_t": torch.rand(B, generator=generator),
        "labels": torch.randint(V, (B, L), generator=generator),
        "weight": torch.rand(B, generator=generator),
        "ce_weight": torch.rand(B, L, generator=generator),
    }
    assert 0 < data["mask"].sum() < B * L
    data["student"] = (data["student_hidden"] @ data["student_weight"].T).detach().requires_grad_()
    data["teacher"] = data["teacher_hidden"] @ data["teacher_weight"].T
    return data


def rows(name, student, teacher, lambda_t, temperature):
    """Divergence of every row by the textbook, in fp64 and not scaled by T²."""
    student, teacher = student.double() / temperature, teacher.double() / temperature
    log_p, log_q = student.log_softmax(-1), teacher.log_softmax(-1)
    if name == "reverse_kl":
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    share = torch.ones(()) if name == "forward_kl" else lambda_t.double()
    share = share.reshape(*share.shape, *[1] * (student.ndim - share.ndim))
    log_r = ((1 - share) * student + share * teacher).log_softmax(-1).detach()
    return (log_r.exp() * (log_r - log_p)).sum(-1)


def logits_loss(name, data, mask=None, **options):
    if name == "tidal":
        options.setdefault("lambda_t", data["lambda_t"])
    return LOGITS[name](data["student"], data["teacher"], mask, **options)


def linear_loss(name, data, mask=None, **options):
    if name == "tidal":
        options.setdefault("lambda_t", data["lambda_t"])
    heads = [data[f"{side}_{part}"] for side in ("student", "teacher") for part in ("hidden", "weight")]
    return LINEAR[name](*heads, mask, **options)


def close(actual, expected, bound=64):
    scale = expected.detach().abs().max().clamp_min(1e-30)
    assert float((actual.detach().double() - expected.detach()).abs().max() / scale) < bound * EPS32


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("name", NAMES)
def test_mean_over_active_rows_with_weights(name, temperature, data):
    mask, weight = data["mask"], data["weight"]
    kl = rows(name, data["student"], data["teacher"], data["lambda_t"], temperature)
    expected = temperature**2 * (kl * weight[:, None] * mask).sum() / mask.sum()
    loss = logits_loss(name, data, mask, temperature=temperature, weight=weight)
    assert loss.shape == () and loss.dtype == torch.float32
    close(loss, expected)
    (actual,) = torch.autograd.grad(loss, [data["student"]])
    (wanted,) = torch.autograd.grad(expected, [data["student"]])
    close(actual, wanted.double())
    assert not actual[~mask].any()


@pytest.mark.parametrize("name", NAMES)
def test_reductions(name, data):
    mask = data["mask"]
    none = logits_loss(name, data, mask, reduction="none")
    assert none.shape == (B, L) and not none[~mask].any()
    close(none, 4 * rows(name, data["student"], data["teacher"], data["lambda_t"], 2.0) * mask)
    close(logits_loss(name, data, mask, reduction="sum"), none.double().sum())
    close(logits_loss(name, data, mask), none.double().sum() / mask.sum())


@pytest.mark.parametrize("name", NAMES)
def test_no_mask_is_a_full_mask(name, data):
    full = torch.ones(B, L, dtype=torch.bool)
    for loss in (logits_loss, linear_loss):
        assert torch.equal(loss(name, data), loss(name, data, full))


@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
@pytest.mark.parametrize("name", NAMES)
def test_labels_add_the_cross_entropy_at_temperature_one(name, linear, data):
    mask, labels = data["mask"], data["labels"].masked_fill(~data["mask"], -100)
    loss = linear_loss if linear else logits_loss
    result = loss(name, data, mask, labels=labels, weight=data["weight"], ce_weight=data["ce_weight"])
    assert isinstance(result, DivergenceLoss)
    nll = -data["student"].double().log_softmax(-1).gather(-1, data["labels"][..., None]).squeeze(-1)
    ce = (nll * data["ce_weight"] * mask).sum() / mask.sum()
    alone = loss(name, data, mask, weight=data["weight"])
    close(result.cross_entropy, ce)
    close(result.divergence, alone.double())
    close(result.loss, alone.double() + ce)
    assert not result.divergence.requires_grad and not result.cross_entropy.requires_grad
    leaves = [data["student_hidden"], data["student_weight"]] if linear else [data["student"]]
    student = data["student_hidden"] @ data["student_weight"].T if linear else data["student"]
    kl = rows(name, student, data["teacher"], data["lambda_t"], 2.0)
    nll = -student.double().log_softmax(-1).gather(-1, data["labels"][..., None]).squeeze(-1)
    expected = (4 * kl * data["weight"][:, None] + nll * data["ce_weight"])[mask].mean()
    for actual, wanted in zip(
        torch.autograd.grad(result.loss, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        close(actual, wanted.double(), 128)


@pytest.mark.parametrize("name", NAMES)
def test_labels_with_reduction_none_are_per_row(name, data):
    result = logits_loss(name, data, data["mask"], labels=data["labels"], reduction="none")
    total = logits_loss(name, data, data["mask"], labels=data["labels"], reduction="sum")
    assert result.loss.shape == result.cross_entropy.shape == (B, L)
    close(total.loss, result.loss.double().sum())
    torch.testing.assert_close(result.loss, result.divergence + result.cross_entropy)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_give_what_logits_give(name, reduction, data):
    data["student"] = data["student_hidden"] @ data["student_weight"].T
    leaves = [data["student_hidden"], data["student_weight"]]
    options = {"weight": data["weight"], "reduction": reduction}
    for mask in (data["mask"], None):
        expected = logits_loss(name, data, mask, **options)
        wanted = torch.autograd.grad(expected, leaves, retain_graph=True)
        actual = linear_loss(name, data, mask, workspace_bytes=8 * V * 4, **options)
        close(actual, expected.double())
        for one, two in zip(torch.autograd.grad(actual, leaves), wanted, strict=True):
            close(one, two.double())


@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_lambda_per_sequence_per_row_and_as_a_number(linear, data):
    loss = linear_loss if linear else logits_loss
    per_sequence = loss("tidal", data, data["mask"])
    per_row = loss("tidal", data, data["mask"], lambda_t=data["lambda_t"][:, None].expand(B, L))
    assert torch.equal(per_sequence, per_row)
    number = loss("tidal", data, data["mask"], lambda_t=0.25)
    assert torch.equal(number, loss("tidal", data, data["mask"], lambda_t=torch.full((B,), 0.25)))
    assert torch.equal(loss("tidal", data, lambda_t=1.0), loss("forward_kl", data))
    assert loss("tidal", data, lambda_t=0.0) == 0


def test_lambda_per_sequence_where_b_equals_l(data):
    square = {"student": data["student"][:, :B], "teacher": data["teacher"][:, :B]}
    values = tidal_loss(
        **{f"{k}_logits": v for k, v in square.items()}, lambda_t=data["lambda_t"], reduction="none"
    )
    close(values, 4 * rows("tidal", square["student"], square["teacher"], data["lambda_t"], 2.0))


@pytest.mark.parametrize("leading", [(), (4,), (2, 1, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_leading_dimensions_are_free(name, leading):
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(*leading, V, generator=generator) for _ in range(2))
    options = {"lambda_t": 0.5} if name == "tidal" else {}
    values = LOGITS[name](student, teacher, reduction="none", **options)
    assert values.shape == leading
    close(values, 4 * rows(name, student, teacher, torch.tensor(0.5), 2.0))


@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_active_is_zero_with_a_graph(name, linear, data):
    loss = linear_loss if linear else logits_loss
    leaves = [data["student_hidden"], data["student_weight"]] if linear else [data["student"]]
    result = loss(
        name, data, torch.zeros(B, L, dtype=torch.bool), labels=data["labels"], weight=data["weight"]
    )
    assert result.loss == 0 and result.divergence == 0 and result.cross_entropy == 0
    for gradient, leaf in zip(torch.autograd.grad(result.loss, leaves), leaves, strict=True):
        assert gradient.shape == leaf.shape and not gradient.any()


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_at_all(name):
    student = torch.zeros(2, 0, V, requires_grad=True)
    options = {"lambda_t": torch.rand(2)} if name == "tidal" else {}
    loss = LOGITS[name](student, torch.zeros(2, 0, V), **options)
    loss.backward()
    assert loss == 0 and student.grad.shape == student.shape


@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
@pytest.mark.parametrize("name", NAMES)
def test_nan_in_unread_rows_stays_there(name, linear, data):
    mask, loss = data["mask"], linear_loss if linear else logits_loss
    kinds = ("student_hidden", "teacher_hidden") if linear else ("student", "teacher")
    leaf = kinds[0]
    expected = loss(name, data, mask, weight=data["ce_weight"])
    (wanted,) = torch.autograd.grad(expected, [data[leaf]])
    for kind in kinds:
        spoiled = data[kind].detach().masked_fill(~mask[..., None], torch.nan)
        data[kind] = spoiled.requires_grad_(kind == leaf)
    data["lambda_t"] = data["lambda_t"][:, None].expand(B, L).masked_fill(~mask, torch.nan)
    weight = data["ce_weight"].masked_fill(~mask, torch.nan)
    actual = loss(name, data, mask, weight=weight)
    assert torch.equal(actual, expected)
    (gradient,) = torch.autograd.grad(actual, [data[leaf]])
    assert torch.equal(gradient, wanted) and not gradient[~mask].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_common_prefix_of_two_vocabularies(name, data):
    wider = torch.cat([data["teacher"], torch.full((B, L, 4), 9.0)], -1)
    loss = logits_loss(name, {**data, "teacher": wider}, vocab_size=30)
    cut = {**data, "student": data["student"][..., :30], "teacher": data["teacher"][..., :30]}
    assert torch.equal(loss, logits_loss(name, cut))
    (gradient,) = torch.autograd.grad(loss, [data["student"]])
    assert not gradient[..., 30:].any()
    with pytest.raises(ValueError, match="vocab_size"):
        logits_loss(name, {**data, "teacher": wider})


@pytest.mark.parametrize("name", NAMES)
def test_linear_reduction_none_names_the_remedy(name, data):
    with pytest.raises(ValueError, match=f"linear_{name}_loss: reduction 'none'.*reduction='sum'"):
        linear_loss(name, data, reduction="none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.ones(B, L)}, "mask must be boolean; got torch.float32"),
        ({"mask": torch.ones(B, dtype=torch.bool)}, r"mask must have the rows' shape \(3, 5\); got \(3,\)"),
        ({"labels": torch.zeros(B, dtype=torch.int64)}, r"labels must have the rows' shape \(3, 5\)"),
        ({"weight": torch.ones(L)}, "weight must be a number, one per sequence or one per row"),
        ({"ce_weight": torch.ones(B)}, "ce_weight needs labels"),
        ({"reduction": "avg"}, "reduction must be one of mean, sum, none; got 'avg'"),
        ({"temperature": -1.0}, "temperature must be positive"),
        ({"backend": "gpu"}, "unknown backend 'gpu'"),
    ],
)
@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
@pytest.mark.parametrize("name", NAMES)
def test_errors_name_function_rule_values_and_remedy(name, linear, change, message, data):
    loss = linear_loss if linear else logits_loss
    with pytest.raises(ValueError, match=message):
        loss(name, data, **change)


@pytest.mark.parametrize("name", NAMES)
def test_student_and_teacher_must_have_the_same_rows(name, data):
    data["teacher"], data["teacher_hidden"] = data["teacher"][:, :-1], data["teacher_hidden"][:, :-1]
    with pytest.raises(ValueError, match=f"^{name}_loss: .*teacher_logits must share.*chunk likelihoods"):
        logits_loss(name, data)
    with pytest.raises(ValueError, match=f"^linear_{name}_loss: .*teacher_hidden must share"):
        linear_loss(name, data)


@pytest.mark.parametrize("name", NAMES)
def test_trainable_teacher_is_an_error(name, data):
    with pytest.raises(ValueError, match="requires grad, but only the student"):
        logits_loss(name, {**data, "teacher": data["teacher"].requires_grad_()})
    with pytest.raises(ValueError, match="teacher_weight requires grad"):
        linear_loss(name, {**data, "teacher_weight": data["teacher_weight"].requires_grad_()})
    with pytest.raises(ValueError, match=r"weight must not require grad.*Pass weight.detach\(\)"):
        linear_loss(name, data, weight=torch.ones(B, requires_grad=True))


@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_learnable_temperature_is_an_error(linear, data):
    loss = linear_loss if linear else logits_loss
    with pytest.raises(ValueError, match=r"temperature requires grad.*constant"):
        loss("tidal", data, temperature=torch.tensor(2.0, requires_grad=True))
    constant = loss("tidal", data, temperature=torch.tensor(2.0))
    assert torch.equal(constant, loss("tidal", data, temperature=2.0))


@pytest.mark.parametrize(
    "option", ["student_logit_scale", "student_softcap", "teacher_logit_scale", "teacher_softcap"]
)
def test_learnable_scale_or_softcap_is_an_error(option, data):
    with pytest.raises(ValueError, match=f"{option} requires grad.*constant"):
        linear_loss("reverse_kl", data, **{option: torch.tensor(2.0, requires_grad=True)})
