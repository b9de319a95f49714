"""chunk_likelihood: chunks, and their losses and slopes from Python floats."""

from __future__ import annotations

import math

import torch

from tests.kernels.cases import EPS32

# The definition sums in fp32; the others compute in fp64 and round once.
FAST = ("torch", "native", "triton")
BACKENDS = (*FAST, "reference")
BOUND = {"triton": EPS32, "native": EPS32, "torch": EPS32, "reference": 64 * EPS32}


def make(num_chunks=7, batch=3, dtype=torch.float32, seed=0):
    """Chunks of one to three tokens per side, in order, with unaligned tokens between them.

    Likelihoods range from exp(-40) to almost 1: both ends of the clamp occur at T = 1.
    """
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, num_chunks, generator=generator) < 0.8
    mask[:, -1] = True  # code that drops the last chunk must fail
    sides = []
    for _ in range(2):
        length = 4 * num_chunks + 1
        log_p = -(10 ** (torch.rand(batch, length, generator=generator, dtype=torch.float64) * 5 - 4))
        chunks = torch.full((batch, length), -1)
        for row in chunks:
            sizes = torch.randint(1, 4, (num_chunks,), generator=generator)
            ids = [[c] * int(size) + [-1] * (c % 2) for c, size in enumerate(sizes)]
            flat = torch.tensor([c for group in ids for c in group])
            row[len(row) - len(flat) :] = flat
        for chunk, value in ((0, -40.0), (1, -1e-9)):
            log_p[0, chunks[0] == chunk] = value
        sides.append((log_p.to(dtype), chunks))
    (student, student_chunks), (teacher, teacher_chunks) = sides
    upstream = torch.randn(batch, num_chunks, generator=generator)
    return (student.requires_grad_(), teacher, student_chunks, teacher_chunks, mask), upstream


def options_of(objective, batch=3):
    shares = torch.linspace(0.1, 0.9, batch)
    return {"objective": objective} | ({"lambda_t": shares} if objective == "interpolated" else {})


def gradient(loss, student, upstream, **options):
    (d_student,) = torch.autograd.grad(loss, [student], upstream.to(loss.dtype), **options)
    return d_student


def loss_and_slope(objective, log_s, log_t, share, temperature, eps):
    """(loss of one chunk, slope in the sum of the student's log-probabilities) from two floats."""

    def likelihood(log_p):
        p = math.exp(log_p / temperature)
        rest = -math.expm1(log_p / temperature)
        if p < eps or rest < eps:
            return (eps, 1 - eps, False) if p < eps else (1 - eps, eps, False)
        return p, rest, True

    (s, not_s, free), (t, not_t, _) = likelihood(log_s), likelihood(log_t)
    if objective == "interpolated":
        t, not_t = share * t + (1 - share) * s, share * not_t + (1 - share) * not_s
    if objective in ("forward", "interpolated"):
        loss = -(t * math.log(s) + not_t * math.log(not_s))
        slope = not_t / not_s - t / s
    elif objective == "reverse":
        loss = -(s * math.log(t) + not_s * math.log(not_t))
        slope = math.log(not_t / t)
    else:
        loss = s * math.log(s / t) + not_s * math.log(not_s / not_t)
        slope = math.log(s / not_s) - math.log(t / not_t)
    return loss, slope * s / temperature * free


def by_hand(inputs, upstream, objective, lambda_t=None, temperature=1.0, eps=1e-7):
    """(loss [B, C], gradient [B, Ls]), one chunk and one token at a time, in Python floats."""
    student, teacher, student_chunks, teacher_chunks = (x.detach().tolist() for x in inputs[:4])
    loss = torch.zeros(inputs[4].shape, dtype=torch.float64)
    d_student = torch.zeros(inputs[0].shape, dtype=torch.float64)
    for b, c in inputs[4].nonzero().tolist():
        log_s = math.fsum(x for x, chunk in zip(student[b], student_chunks[b], strict=True) if chunk == c)
        log_t = math.fsum(x for x, chunk in zip(teacher[b], teacher_chunks[b], strict=True) if chunk == c)
        share = None if lambda_t is None else float(lambda_t[b])
        loss[b, c], slope = loss_and_slope(objective, log_s, log_t, share, temperature, eps)
        for i, chunk in enumerate(student_chunks[b]):
            if chunk == c:
                d_student[b, i] = slope * float(upstream[b, c])
    return loss, d_student
