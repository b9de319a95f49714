"""Our kernels agree with liger-kernel's, both in Triton's interpreter.

Its generalised JSD at beta = 0 is KL(teacher || student), interpolated_kl at lambda = 1; at beta = 1 it is
KL(student || teacher), reverse_kl. Both take the mean over rows, without T². From hidden states it has two,
a fused kernel and a chunked one through autograd.
"""

from __future__ import annotations

import pytest
import torch

from tests.kernels.cases import DIVERGENCES, EPS32, relative
from tests.kernels.cases.divergence import call, make
from tide_kernels import linear_interpolated_kl, linear_reverse_kl, linear_token_logprob

liger = pytest.importorskip("liger_kernel.transformers")
functional = pytest.importorskip("liger_kernel.transformers.functional")
BETA = {"interpolated_kl": 0.0, "reverse_kl": 1.0}
both_divergences = pytest.mark.parametrize("divergence", DIVERGENCES)


@both_divergences
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_jsd_over_logits(temperature, divergence):
    inputs, _ = make(6, 500)
    student, teacher = inputs["student_logits"], inputs["teacher_logits"]
    inputs = {"student_logits": student, "teacher_logits": teacher, "lambda_t": 1.0}
    theirs = functional.liger_jsd(
        torch.log_softmax(student / temperature, -1),
        torch.log_softmax(teacher / temperature, -1),
        beta=BETA[divergence],
    )
    ours = call(divergence, inputs, temperature, backend="triton")[0].mean()
    assert relative(ours, theirs) < 16 * EPS32
    d_ours, d_theirs = (torch.autograd.grad(loss, student)[0] for loss in (ours, theirs))
    assert relative(d_ours, d_theirs) < 32 * EPS32


def heads(rows=6, vocab=300, widths=(16, 32)):
    """(hidden states, head) of student and teacher; the student's require grad."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    student = [normal(n, widths[0]).requires_grad_() for n in (rows, vocab)]
    return student, [normal(n, widths[1]) for n in (rows, vocab)]


def assert_same(ours, theirs, inputs):
    assert relative(ours, theirs) < 32 * EPS32
    for mine, other in zip(*(torch.autograd.grad(loss, inputs) for loss in (ours, theirs)), strict=True):
        assert relative(mine, other) < 64 * EPS32


def linear_divergence(divergence, student, teacher, temperature):
    # A workspace of two rows, for several row blocks.
    options = {"temperature": temperature, "backend": "triton", "workspace_bytes": 2 * 300 * 8}
    if divergence == "interpolated_kl":
        loss = linear_interpolated_kl(*student, *teacher, 1.0, **options).loss
    else:
        loss = linear_reverse_kl(*student, *teacher, **options).loss
    return loss / student[0].shape[0]


@both_divergences
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_fused_linear_jsd(temperature, divergence):
    student, teacher = heads()
    theirs = liger.LigerFusedLinearJSD(jsd_beta=BETA[divergence], temperature=temperature)
    ours = linear_divergence(divergence, student, teacher, temperature)
    assert_same(ours, theirs(*student, *teacher, None), student)


@both_divergences
def test_chunked_linear_jsd(divergence):
    chunked = pytest.importorskip("liger_kernel.chunked_loss")
    student, teacher = heads()
    theirs = chunked.LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0,
        weight_soft_loss=1.0,
        beta=BETA[divergence],
        temperature=2.0,
        compiled=False,
        chunk_size=2,
    )
    ours = linear_divergence(divergence, student, teacher, 2.0)
    assert_same(ours, theirs(*student, *teacher, torch.zeros(6, dtype=torch.long)), student)


def test_fused_linear_cross_entropy():
    (hidden, weight), _ = heads()
    ids = torch.arange(6) * 59  # 295 is the last
    theirs = liger.LigerFusedLinearCrossEntropyLoss()(weight, hidden, ids)
    ours = -linear_token_logprob(hidden, weight, ids, backend="triton").mean()
    assert_same(ours, theirs, [hidden, weight])
