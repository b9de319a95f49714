"""Spans of tiles in the Triton forward of the divergences: rows that leave a span or move its mean.

Mutants that this file kills: a tile's vote ignored, a span that outweighs the row kept, a span's mean not
moved, the label's tile summed with its span, spans summed plainly however close the target.
"""

from __future__ import annotations

import pytest
import torch

from tests.kernels.cases import DIVERGENCES, EPS32, relative, worst_row
from tests.kernels.cases.divergence import call, exact, gradient
from tide_kernels._shared import launch
from tide_kernels.divergence import launch as divergence_launch

# 18 tiles of 32 columns, in spans of up to 8, and a rest of 9.
BLOCK_V = 32
VOCAB = 18 * BLOCK_V + 9

both_divergences = pytest.mark.parametrize("divergence", DIVERGENCES)


@pytest.fixture
def tiles(monkeypatch):
    """Return a function that sets the programs per row, with narrow tiles."""

    def choose(splits):
        monkeypatch.setattr(divergence_launch, "blocks_for", lambda *_: launch.Blocks(BLOCK_V, 1))
        monkeypatch.setattr(divergence_launch, "splits_for", lambda *_: splits)

    return choose


def noise(seed):
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed))


def near(scale=1e-3):
    student = 2 * noise(0)
    return student, student + scale * noise(1)


def rows():
    """(student, teacher) of one row each, by what happens on the way."""
    student, teacher = near()
    yield "near", student, teacher
    yield "apart", student, 2 * noise(2)
    yield "mixed", student, student + 0.6 * noise(2)

    student, teacher = near()
    teacher[250:] += 2.0
    yield "the mean moves", student, teacher

    student, teacher = near()
    teacher += 20
    yield "the teacher is offset", student, teacher

    # The first tile has one heavy entry and all later ones are 13 times as heavy, below the rise.
    student, teacher = 0.01 * noise(0) + 2.6, 0.01 * noise(1)
    student[:BLOCK_V] = -20.0
    student[3] = 0.0
    teacher = student + 1e-3 * teacher
    teacher[:BLOCK_V] += 3.0
    yield "a span outweighs the row", student, teacher

    student, teacher = near()
    ramp = torch.linspace(-40, 40, VOCAB)
    yield "logits rise", student + ramp, teacher + ramp
    yield "logits fall", student - ramp, teacher - ramp

    student, teacher = near(0.3)
    student[500] += 30
    yield "an entry dominates, late", student, teacher

    student, teacher = near(0.3)
    teacher[[320, 501]] = -1e4
    yield "tokens are excluded", student, teacher

    student, teacher = near(0.3)
    student[300:400] -= 100.0
    teacher[300:400] -= 60.0
    yield "both exclude, unevenly", student, teacher


ROWS = list(rows())


@both_divergences
@pytest.mark.parametrize(("temperature", "splits"), [(1.0, 1), (2.0, 1), (0.7, 2)])
def test_rows_of_many_tiles_keep_their_digits(temperature, splits, divergence, tiles):
    tiles(splits)
    student = torch.stack([s for _, s, _ in ROWS]).requires_grad_()
    teacher = torch.stack([z for _, _, z in ROWS])
    lambdas = torch.tensor([0.1, 0.5, 1.0] * len(ROWS))[: len(ROWS)]
    inputs = {"student_logits": student, "teacher_logits": teacher, "lambda_t": lambdas}
    expected, d_expected = exact(divergence, student, teacher, lambdas, temperature)
    kl, _ = call(divergence, inputs, temperature, backend="triton")
    d_student = gradient((kl,), student, (torch.ones(len(ROWS)),))
    for row, (name, _, _) in enumerate(ROWS):
        # An offset of 20 rounds z - s by 1e-6, of a spread of 1e-3.
        bound = 1e-2 if name == "the teacher is offset" else 64 * EPS32
        assert float(abs(kl[row] - expected[row])) < bound * float(expected[row]) + 1e-14, name
        assert worst_row(d_student[row : row + 1], d_expected[row : row + 1]) < 2 * bound, name


@both_divergences
@pytest.mark.parametrize(
    ("dtype", "temperature"), [(torch.float32, 50.0), (torch.bfloat16, 2.0), (torch.float16, 0.7)], ids=str
)
def test_labels_of_any_tile(dtype, temperature, divergence, tiles):
    # In the first, a middle, the last whole tile, the rest. Where logits rise, sums at T = 1 stay in range.
    tiles(1)
    student = torch.stack([s for name, s, _ in ROWS if name in ("apart", "logits rise")] * 4).to(dtype)
    teacher = torch.stack([z for name, _, z in ROWS if name in ("apart", "logits rise")] * 4).to(dtype)
    labels = torch.tensor([5, 40, 290, 300, 17 * BLOCK_V, 18 * BLOCK_V - 1, VOCAB - 1, 0])
    # A label that dominates: log p is near 0.
    student[2, 290] = 30.0
    inputs = {
        "student_logits": student.requires_grad_(),
        "teacher_logits": teacher,
        "lambda_t": torch.full((8,), 0.5),
        "labels": labels,
    }
    expected, _ = exact(divergence, student, teacher, inputs["lambda_t"], temperature)
    kl, ce = call(divergence, inputs, temperature, backend="triton")
    log_p = torch.log_softmax(student.detach().double(), 1).gather(1, labels[:, None])[:, 0]
    assert relative(ce, -log_p) < 16 * EPS32
    assert float(abs(ce[2] / -log_p[2] - 1)) < 64 * EPS32
    assert worst_row(kl, expected) < 64 * EPS32


@both_divergences
def test_a_nan_late_in_a_row_shows(divergence, tiles):
    tiles(1)
    student, teacher = torch.stack([near()[0]] * 3), torch.stack([near()[1]] * 3)
    student[0, 500] = teacher[1, 500] = torch.nan
    inputs = {"student_logits": student, "teacher_logits": teacher, "lambda_t": torch.full((3,), 0.5)}
    assert call(divergence, inputs, backend="triton")[0].isnan().tolist() == [True, True, False]
