"""Where liger-kernel computes the same thing, both agree: its kernels and ours in Triton's interpreter.

Its generalised JSD at beta = 0 is KL(teacher || student), interpolated_kl at lambda = 1; at beta = 1 it is
KL(student || teacher), reverse_kl. Both take the mean over rows, and no T².
"""

from __future__ import annotations

import pytest
import torch

from tests.kernels.divergence_cases import DIVERGENCES, EPS32, call, make, relative

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


@both_divergences
def test_fused_linear_jsd(divergence):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    student_hidden, student_head = normal(6, 16).requires_grad_(), normal(300, 16).requires_grad_()
    teacher_hidden, teacher_head = normal(6, 24), normal(300, 24)
    theirs = functional.liger_fused_linear_jsd(
        student_hidden, student_head, teacher_hidden, teacher_head, jsd_beta=BETA[divergence], temperature=2.0
    )
    inputs = {
        "student_logits": student_hidden @ student_head.T,
        "teacher_logits": teacher_hidden @ teacher_head.T,
        "lambda_t": 1.0,
    }
    ours = call(divergence, inputs, 2.0, backend="triton")[0].mean()
    assert relative(ours, theirs) < 32 * EPS32
    for mine, other in zip(
        *(torch.autograd.grad(loss, (student_hidden, student_head)) for loss in (ours, theirs)), strict=True
    ):
        assert relative(mine, other) < 64 * EPS32
