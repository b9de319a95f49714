"""linear_interpolated_kl and linear_reverse_kl: inputs, calls, truth."""

from __future__ import annotations

import torch

from tests.kernels.cases import widened
from tide_kernels import linear_interpolated_kl, linear_reverse_kl

STUDENT = ("student_hidden", "student_weight", "student_bias")


def make(rows=13, vocab=1000, dtype=torch.float32, seed=0, teacher_dtype=None, widths=(24, 40), device="cpu"):
    """Inputs in the given dtype; the student's side requires grad."""
    generator = torch.Generator(device).manual_seed(seed)
    drawn = {"generator": generator, "device": device}

    def normal(*shape, scale=1.0, to=dtype):
        return (torch.randn(*shape, dtype=torch.float64, **drawn) * scale).to(to)

    teacher_dtype = teacher_dtype or dtype
    inputs = {
        "student_hidden": normal(rows, widths[0]),
        "student_weight": normal(vocab, widths[0], scale=2 * widths[0] ** -0.5),
        "student_bias": normal(vocab),
        "teacher_hidden": normal(rows, widths[1], to=teacher_dtype),
        "teacher_weight": normal(vocab, widths[1], scale=2 * widths[1] ** -0.5, to=teacher_dtype),
        "teacher_bias": normal(vocab, to=teacher_dtype),
        "lambda_t": torch.rand(rows, **drawn),
        "labels": torch.randint(vocab, (rows,), **drawn),
        "weight": torch.rand(rows, **drawn),
        "ce_weight": torch.rand(rows, **drawn),
    }
    # The last column weighs, and is a label: code that drops it must fail.
    inputs["student_bias"][-1] += 5
    inputs["labels"][::2] = vocab - 1
    for name in STUDENT:
        inputs[name].requires_grad_()
    return inputs


def call(divergence, inputs, temperature=2.0, **options):
    inputs = dict(inputs)
    lambda_t = inputs.pop("lambda_t")
    heads = [inputs.pop(f"{side}_{part}") for side in ("student", "teacher") for part in ("hidden", "weight")]
    if divergence == "interpolated_kl":
        return linear_interpolated_kl(*heads, lambda_t, temperature=temperature, **inputs, **options)
    return linear_reverse_kl(*heads, temperature=temperature, **inputs, **options)


def gradients(result, inputs, names=STUDENT, upstream=1.0):
    return torch.autograd.grad(result.loss * upstream, [inputs[name] for name in names])


def truth(divergence, inputs, **options):
    """(result, gradients) by the definition in fp64, on the same rounded inputs."""
    wide = widened(inputs)
    result = call(divergence, wide, backend="reference", **options)
    return result, gradients(result, wide)
