"""Token log-probabilities and the masked-diffusion cross-entropy against plain formulas in fp64."""

from __future__ import annotations

import pytest
import torch

from tide.losses import cross_entropy_loss, linear_token_log_probs, token_log_probs

EPS32 = torch.finfo(torch.float32).eps
B, L, V = 3, 6, 41
IGNORE = -100


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(B, L, 8, generator=generator).requires_grad_()
    weight = torch.randn(V, 8, generator=generator).requires_grad_()
    labels = torch.randint(V, (B, L), generator=generator)
    labels[0, :3], labels[1, 5] = IGNORE, IGNORE
    masked = (torch.rand(B, L, generator=generator) < 0.5) & (labels != IGNORE)
    assert masked.any(1).all()
    logits = (hidden @ weight.T).detach().requires_grad_()
    return {"hidden": hidden, "weight": weight, "logits": logits, "labels": labels, "masked": masked}


def nll(data):
    log_p = data["logits"].double().log_softmax(-1)
    return -log_p.gather(-1, data["labels"].clamp_min(0)[..., None]).squeeze(-1)


def close(actual, expected, bound=32):
    scale = expected.detach().abs().max().clamp_min(1e-30)
    assert float((actual.detach().double() - expected.detach()).abs().max() / scale) < bound * EPS32


@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_log_probabilities_of_masked_rows(linear, data):
    labels = data["labels"].masked_fill(~data["masked"], 10**6)  # rows that are not read need no valid id
    if linear:
        log_p = linear_token_log_probs(data["hidden"], data["weight"], labels, data["masked"])
        leaves = [data["hidden"], data["weight"]]
        data["logits"] = data["hidden"] @ data["weight"].T
    else:
        log_p = token_log_probs(data["logits"], labels, data["masked"])
        leaves = [data["logits"]]
    assert log_p.shape == (B, L) and log_p.dtype == torch.float32
    expected = -nll(data) * data["masked"]
    close(log_p, expected)
    assert not log_p[~data["masked"]].any()
    upstream = torch.arange(B * L, dtype=torch.float32).view(B, L)
    for actual, wanted in zip(
        torch.autograd.grad(log_p, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream.double()),
        strict=True,
    ):
        close(actual, wanted.double(), 64)


@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_no_mask_reads_every_row(linear, data):
    ids = data["labels"].clamp_min(0)
    full = torch.ones(B, L, dtype=torch.bool)
    if linear:
        plain, masked = (linear_token_log_probs(data["hidden"], data["weight"], ids, m) for m in (None, full))
    else:
        plain, masked = (token_log_probs(data["logits"], ids, m) for m in (None, full))
    assert torch.equal(plain, masked) and (plain < 0).all()


@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_no_row_at_all_keeps_the_graph(linear, data):
    none = torch.zeros(B, L, dtype=torch.bool)
    leaf = data["hidden"] if linear else data["logits"]
    head = (data["weight"],) if linear else ()
    function = linear_token_log_probs if linear else token_log_probs
    log_p = function(leaf, *head, data["labels"], none)
    assert log_p.shape == (B, L) and not log_p.any()
    (gradient,) = torch.autograd.grad(log_p.sum(), [leaf])
    assert gradient.shape == leaf.shape and not gradient.any()


@pytest.mark.parametrize("normalizer", ["token", "sequence", "batch", "sum"])
def test_normalizers(normalizer, data):
    t = torch.tensor([0.2, 0.5, 0.9])
    loss_mask = data["labels"] != IGNORE
    losses = nll(data) * data["masked"] / t.double()[:, None]
    expected = {
        "token": losses.sum() / loss_mask.sum(),
        "sequence": (losses.sum(1) / loss_mask.sum(1)).mean(),
        "batch": losses.sum() / B,
        "sum": losses.sum(),
    }[normalizer]
    loss = cross_entropy_loss(
        data["logits"],
        data["labels"],
        data["masked"],
        weight=1 / t,
        loss_mask=loss_mask,
        normalizer=normalizer,
    )
    close(loss, expected)
    (actual,) = torch.autograd.grad(loss, [data["logits"]])
    (wanted,) = torch.autograd.grad(expected, [data["logits"]])
    close(actual, wanted.double(), 64)
    assert not actual[~data["masked"]].any()


def test_without_weights_it_is_the_mean_of_torch(data):
    loss = cross_entropy_loss(data["logits"], data["labels"])
    flat = data["logits"].double().flatten(0, 1), data["labels"].flatten()
    close(loss, torch.nn.functional.cross_entropy(*flat, ignore_index=IGNORE))
    masked = cross_entropy_loss(data["logits"], data["labels"], data["masked"])
    close(masked, nll(data)[data["masked"]].mean())
    assert torch.equal(
        loss,
        cross_entropy_loss(
            data["logits"], data["labels"].masked_fill(data["labels"] < 0, 7), data["labels"] >= 0
        ),
    )


def test_an_ignored_label_is_never_read(data):
    assert (data["labels"][0, :3] == IGNORE).all()
    logits = data["logits"].detach().clone()
    logits[0, :3] = torch.nan
    logits.requires_grad_()
    loss = cross_entropy_loss(logits, data["labels"], torch.ones(B, L, dtype=torch.bool))
    assert torch.equal(loss, cross_entropy_loss(data["logits"], data["labels"]))
    (gradient,) = torch.autograd.grad(loss, [logits])
    assert gradient.isfinite().all() and not gradient[0, :3].any()


def test_nothing_labelled_gives_zero_with_a_graph(data):
    loss = cross_entropy_loss(data["logits"], torch.full((B, L), IGNORE))
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, [data["logits"]])
    assert not gradient.any()


def test_a_weight_needs_the_loss_mask(data):
    arguments = (data["logits"], data["labels"], data["masked"])
    weight = torch.tensor([5.0, 2.0, 1.0])
    with pytest.raises(
        ValueError, match=r"cross_entropy_loss: .*needs loss_mask.*Pass loss_mask=labels != ignore_index"
    ):
        cross_entropy_loss(*arguments, weight=weight)
    expected = (nll(data) * weight[:, None])[data["masked"]]
    close(cross_entropy_loss(*arguments, weight=weight, loss_mask=data["masked"]), expected.mean())
    close(cross_entropy_loss(*arguments, weight=weight, count=50), expected.sum() / 50)
    close(cross_entropy_loss(*arguments, weight=weight, normalizer="batch"), expected.sum() / B)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": torch.zeros(B, L - 1, dtype=torch.int64)},
            r"must have the rows' shape \(3, 6\); got \(3, 5\)",
        ),
        ({"labels": torch.full((B, L), V)}, r"must lie in \[0, 41\)"),
        ({"mask": torch.ones(B, L)}, "mask must be boolean; got torch.float32"),
        (
            {"mask": torch.ones(L, dtype=torch.bool)},
            r"mask must have the rows' shape \(3, 6\); got \(6,\)",
        ),
        (
            {"loss_mask": torch.ones(L, dtype=torch.bool)},
            r"loss_mask must have the rows' shape \(3, 6\); got \(6,\)",
        ),
        ({"normalizer": "mean"}, "normalizer must be one of token, sequence, batch, sum; got 'mean'"),
    ],
)
def test_errors_name_function_rule_values_and_remedy(change, message, data):
    arguments = {"logits": data["logits"], "labels": data["labels"], **change}
    with pytest.raises(ValueError, match=message):
        cross_entropy_loss(**arguments)


def test_log_prob_errors(data):
    with pytest.raises(ValueError, match=r"^token_log_probs: token_ids must have the rows' shape \(3, 6\)"):
        token_log_probs(data["logits"], data["labels"][0])
    with pytest.raises(ValueError, match=r"^linear_token_log_probs: mask must be boolean"):
        linear_token_log_probs(data["hidden"], data["weight"], data["labels"], data["masked"].int())
