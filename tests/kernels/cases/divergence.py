"""interpolated_kl and reverse_kl: inputs, calls, truth."""

from __future__ import annotations

import numpy
import torch

from tests.kernels.cases import widened
from tide_kernels import interpolated_kl, reverse_kl


def make(rows=13, vocab=1000, dtype=torch.float32, teacher_dtype=None, seed=0):
    """Inputs with labels, and an upstream gradient for each result."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    student, teacher = 2 * normal(rows, vocab), 2 * normal(rows, vocab)
    # The last column weighs on both sides and is a label: code that drops it must fail.
    student[:, -1] += 5
    teacher[:, -1] += 7
    labels = torch.randint(vocab, (rows,), generator=generator)
    labels[::2] = vocab - 1
    return {
        "student_logits": student.to(dtype).requires_grad_(),
        "teacher_logits": teacher.to(teacher_dtype or dtype),
        "lambda_t": torch.rand(rows, generator=generator),
        "labels": labels,
    }, (normal(rows).float(), normal(rows).float())


def call(divergence, inputs, temperature=2.0, **options):
    """(kl, ce), or (kl, None) without labels."""
    inputs = dict(inputs) | options
    lambda_t = inputs.pop("lambda_t")
    logits = (inputs.pop("student_logits"), inputs.pop("teacher_logits"))
    if divergence == "interpolated_kl":
        result = interpolated_kl(*logits, lambda_t, temperature=temperature, **inputs)
    else:
        result = reverse_kl(*logits, temperature=temperature, **inputs)
    return result if isinstance(result, tuple) else (result, None)


def gradient(results, student, upstream, **options):
    """Gradient of the upstream-weighted sum of the results in the student's logits."""
    kept = [(x, d.to(x.dtype)) for x, d in zip(results, upstream, strict=True) if x is not None]
    (d_student,) = torch.autograd.grad([x for x, _ in kept], [student], [d for _, d in kept], **options)
    return d_student


def truth(divergence, inputs, upstream, **options):
    """(kl, ce, gradient) by the definition in fp64, on the same rounded inputs."""
    wide = widened(inputs)
    wide["student_logits"].requires_grad_()
    kl, ce = call(divergence, wide, backend="reference", **options)
    d_student = gradient((kl, ce), wide["student_logits"], upstream)
    return kl.detach(), None if ce is None else ce.detach(), d_student


def exact(divergence, student, teacher, lambda_t, temperature):
    """(kl, d kl / d student) in extended precision: fp64 is too coarse for a KL of 1e-13."""
    s, z, share = (x.detach().double().numpy().astype(numpy.longdouble) for x in (student, teacher, lambda_t))
    share = share[:, None] if divergence == "interpolated_kl" else numpy.longdouble(1)

    def log_softmax(x):
        shifted = x - x.max(1, keepdims=True)
        return shifted - numpy.log(numpy.exp(shifted).sum(1, keepdims=True))

    log_p = log_softmax(s / temperature)
    p = numpy.exp(log_p)
    u = share * (z - s) / temperature
    u -= (p * u).sum(1, keepdims=True)
    if u.max() < 1000:
        log_ratio = u - numpy.log1p((p * numpy.expm1(u)).sum(1, keepdims=True))
        excess = numpy.expm1(log_ratio)
        forward, reverse = p * (log_ratio * excess - (excess - log_ratio)), p * (excess - log_ratio)
        d_forward, d_reverse = -p * excess, -p * u
    else:
        log_r = log_softmax(((1 - share) * s + share * z) / temperature)
        forward, reverse = numpy.exp(log_r) * (log_r - log_p), p * (log_p - log_r)
        d_forward, d_reverse = p - numpy.exp(log_r), p * (log_p - log_r - reverse.sum(1, keepdims=True))
    pair = (forward, d_forward) if divergence == "interpolated_kl" else (reverse, d_reverse)
    kl, d_student = pair[0].sum(1), pair[1] / temperature
    return tuple(torch.from_numpy(x.astype(numpy.float64)) for x in (kl, d_student))


def laid_out(values, stride, transposed):
    """The values with NaN gaps between rows, or column-major."""
    rows, width = values.shape
    if transposed:
        return values.t().contiguous().t()
    spread = values.new_full((rows, stride * width), torch.nan)
    spread[:, :width] = values
    return spread[:, :width]
