"""Teachers by contract: what they can answer, at the mask rates they were trained at."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.batches import (
    STUDENT_MASK,
    TEACHER_MASK,
    cross_batch,
    cross_batches,
    in_active_chunks,
    masked_set,
    plain_batch,
    same_batch,
    token_batch,
)
from tide.batch import Batch, NoisedBatch
from tide.config import MaskingConfig
from tide.contract import AUTOREGRESSIVE, Contract
from tide.masking import Noiser, check_teacher, clip_to_rates
from tide.methods import METHODS

STUDENT, TEACHER = Contract(STUDENT_MASK, 4), Contract(TEACHER_MASK, 4)
LOW, HIGH = 0.3, 0.8
NARROW = dataclasses.replace(TEACHER, rates=(LOW, HIGH))
SHIFTED = Contract(TEACHER_MASK, None, shift=1)
DRAWS = 20_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(
    method: str, teacher: Contract, batch: Batch, t: torch.Tensor | None = None, seed: int = 0, **masking
) -> NoisedBatch:
    noiser = Noiser(MaskingConfig(**masking), METHODS[method], STUDENT, teacher)
    return noiser(batch, generator(seed), t)


def hidden(noised: NoisedBatch) -> torch.Tensor:
    return noised.teacher.views == TEACHER_MASK


def clipped(rate: float) -> float:
    return min(max(rate, LOW), HIGH)


def assert_rate(drawn: torch.Tensor, expected: float) -> None:
    """The share of True, to five standard deviations of independent draws."""
    rate, count = float(drawn.double().mean()), drawn.numel()
    assert abs(rate - expected) <= 5 * (expected * (1 - expected) / count) ** 0.5 + 1e-9, (rate, expected)


def repeated(student: list[int], teacher: list[int], draws: int = DRAWS) -> Batch:
    """One aligned text, many times."""
    return cross_batch(token_batch([student] * draws), token_batch([teacher] * draws))


@pytest.mark.parametrize("method", ["kl", "reverse_kl", "taid", "tidal"])
@pytest.mark.parametrize("seed", range(4))
def test_an_autoregressive_teacher_scores_the_students_masked_tokens(method, seed):
    batch = same_batch(token_batch([[-1] * 7] * 4, lengths=[7, 5, 1, 7]))
    noised = noise(method, AUTOREGRESSIVE, batch, torch.tensor([1.0, 0.8, 1.0, 0.5]), seed)
    assert noised.teacher.views.shape == (4, 0, 7)
    assert noised.teacher.rows.tolist() == [row for row in noised.student.rows.tolist() if row % 7]
    assert noised.teacher.row_views.dtype == torch.int64
    assert noised.teacher.row_views.tolist() == [0] * len(noised.teacher.rows)
    # Only the first token of the third text is masked, which nothing predicts: the teacher skips the text.
    assert 2 * 7 in noised.student.rows.tolist()
    assert not noised.teacher.valid[2].any()
    assert torch.equal(noised.teacher.valid[0], batch.teacher.valid[0])
    diffusion = noise(method, TEACHER, batch, noised.t, seed)
    assert torch.equal(noised.student.views, diffusion.student.views)


@given(batch=cross_batches(), seed=st.integers(0, 100))
def test_an_autoregressive_teacher_scores_the_chunks_that_count(batch, seed):
    noised, diffusion = (
        noise("tide_cross", teacher, batch, seed=seed) for teacher in (AUTOREGRESSIVE, TEACHER)
    )
    assert noised.teacher.views.shape == (len(noised.t), 0, batch.teacher.token_ids.shape[1])
    # A chunk with the text's first token has no likelihood.
    first = batch.teacher.chunks[:, 0]
    for sequence, chunk in enumerate(first.tolist()):
        expected = diffusion.chunk_mask[sequence].clone()
        if chunk >= 0:
            expected[chunk] = False
        assert torch.equal(noised.chunk_mask[sequence], expected)
    scored = masked_set(noised.teacher)
    for sequence, chunks in enumerate(batch.teacher.chunks.tolist()):
        counts = [chunk >= 0 and bool(noised.chunk_mask[sequence, chunk]) for chunk in chunks]
        assert scored[sequence].tolist() == counts
    assert not noised.teacher.row_views.any()


def test_comp_demo_refuses_an_autoregressive_teacher():
    for method, others in (
        ("tide_shared", "kl or reverse_kl or taid or tidal"),
        ("tide_shared_chunks", "calm or tide_cross"),
    ):
        with pytest.raises(ValueError, match=f"CompDemo .* autoregressive .* Set method: {others}, "):
            Noiser(MaskingConfig(), METHODS[method], STUDENT, AUTOREGRESSIVE)
        check_teacher(METHODS[method], TEACHER)
        check_teacher(METHODS[method], None)
    check_teacher(METHODS["kl"], AUTOREGRESSIVE)


def test_an_autoregressive_student_is_refused():
    with pytest.raises(ValueError, match="Noiser: the student's contract has no mask_id"):
        Noiser(MaskingConfig(), METHODS["none"], AUTOREGRESSIVE)


def test_a_shifted_model_is_not_asked_for_the_first_token():
    batch, t = same_batch(plain_batch(3, 6)), torch.ones(3)
    noised = noise("kl", SHIFTED, batch, t)
    assert hidden(noised).all() and noised.teacher.rows.tolist() == [i for i in range(18) if i % 6]
    assert len(noised.student.rows) == 18

    noiser = Noiser(MaskingConfig(), METHODS["none"], dataclasses.replace(SHIFTED, mask_id=STUDENT_MASK))
    student = noiser(batch, generator(), t)
    assert student.student.rows.tolist() == noised.teacher.rows.tolist()
    assert student.loss_mask.tolist() == [[False] + [True] * 5] * 3, "it is no token to train on"


@pytest.mark.parametrize("mode", ["clip", "skip", "ignore"])
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.has_teacher])
def test_a_teacher_of_all_rates_is_asked_as_the_student_is_masked(method, mode):
    tokens = [-1, 0, 0, 1, -1, 2, 2, 2]
    batch = (
        repeated(tokens, [0, -1, 1, 1, 2], 50)
        if METHODS[method].across_tokenizers
        else same_batch(plain_batch(50, 8))
    )
    noised = noise(method, TEACHER, batch, teacher_rates=mode)
    plain = noise(method, NARROW, batch, teacher_rates="ignore")
    for name in ("views", "rows", "row_views"):
        assert torch.equal(getattr(noised.teacher, name), getattr(plain.teacher, name))
    assert torch.equal(noised.chunk_mask, plain.chunk_mask)


@pytest.mark.parametrize("time", [0.02, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0])
def test_clipping_brings_the_expected_rate_to_the_nearest_end(time):
    batch = same_batch(plain_batch(DRAWS // 10, 12, prompt=2))
    noised = noise("kl", NARROW, batch, torch.full((DRAWS // 10,), time))
    shown, drawn = hidden(noised)[:, 0], masked_set(noised.student)
    assert not shown[:, :2].any(), "the prompt is never hidden"
    assert_rate(shown[:, 2:], clipped(time))
    # It is asked for the student's tokens that it does not see, and no others.
    assert torch.equal(masked_set(noised.teacher), drawn & shown)
    if time <= HIGH:
        assert torch.equal(noised.teacher.rows, noised.student.rows)
    if time >= LOW:
        assert not (shown & ~drawn).any()


@pytest.mark.parametrize("ratio", [0.5, 0.2])
@pytest.mark.parametrize("time", [0.2, 0.5, 0.7, 1.0])
def test_the_rate_is_that_of_the_view_that_the_teacher_reads(time, ratio):
    batch = same_batch(plain_batch(DRAWS // 10, 10))
    t = torch.full((DRAWS // 10,), time)
    views = hidden(noise("tide_shared", NARROW, batch, t, demo_ratio=ratio))
    for view, rate in enumerate((time * (1 - ratio), time * ratio)):
        assert_rate(views[:, view], clipped(rate))

    noised = noise("tide_shared", NARROW, batch, t, demo_ratio=ratio, teacher_rates="skip")
    assert torch.equal(noised.student.views, noise("kl", TEACHER, batch, t).student.views)
    unclipped = noise("tide_shared", TEACHER, batch, t, demo_ratio=ratio)
    in_range = torch.tensor([LOW <= time * (1 - ratio) <= HIGH, LOW <= time * ratio <= HIGH])
    kept = in_range[unclipped.teacher.row_views]
    assert torch.equal(noised.teacher.rows, unclipped.teacher.rows[kept])
    assert torch.equal(noised.teacher.row_views, unclipped.teacher.row_views[kept])
    assert torch.equal(hidden(noised), hidden(unclipped) & in_range[:, None])


def test_skipped_texts_are_neither_run_nor_distilled():
    t = torch.tensor([0.1, LOW, 0.5, 0.81, 1.0])
    batch = same_batch(plain_batch(5, 40))
    noised = noise("tidal", NARROW, batch, t, teacher_rates="skip")
    in_range = torch.tensor([False, True, True, False, False])
    drawn = masked_set(noised.student)
    assert torch.equal(masked_set(noised.teacher), drawn & in_range[:, None])
    assert torch.equal(noised.teacher.valid, batch.teacher.valid & in_range[:, None])
    assert torch.equal(hidden(noised)[:, 0], drawn & in_range[:, None])


def rate_across(student: list[int], teacher: list[int], time: float, masking: str) -> float:
    """Expected share of the teacher's tokens that are hidden: a chunk whole if any of its tokens is drawn."""
    rates = []
    for chunk in teacher:
        shown = 1 - time
        if chunk >= 0 and masking != "chunks":
            shown = (1 - time) ** student.count(chunk)
        rates.append(1 - shown)
    return sum(rates) / len(rates)


@pytest.mark.parametrize("masking", ["tokens", "chunks", "consistent"])
@pytest.mark.parametrize("method", ["calm", "tide_shared_chunks"])
@pytest.mark.parametrize("time", [0.1, 0.4, 0.9])
def test_across_tokenizers_whole_chunks_are_revealed_or_hidden(time, method, masking):
    student, teacher = [-1, 0, 0, 0, 1, 2, 2, -1], [0, 0, -1, 1, 1, 1, 2]
    batch, t = repeated(student, teacher), torch.full((DRAWS,), time)
    noised = noise(method, NARROW, batch, t, student_masking=masking)
    views, rate = hidden(noised), rate_across(student, teacher, time, masking)
    num_views = views.shape[1]
    for view in range(num_views):
        # Tokens of a chunk are one draw, so the share is less certain than of as many tokens.
        shares = views[:, view].double().mean(1)
        error = 5 * float(shares.std()) / DRAWS**0.5
        assert abs(float(shares.mean()) - clipped(rate / num_views)) <= error
        for chunk in range(3):
            members = torch.tensor(teacher) == chunk
            of_chunk = views[:, view, members]
            assert torch.equal(of_chunk.all(1), of_chunk.any(1))
    # A chunk counts if the student does not see any of it, and neither does the view that predicts it, which
    # is the one that hid it before clipping. The teacher is asked for these chunks alone.
    student_masked = masked_set(noised.student)
    unclipped = noise(method, NARROW, batch, t, student_masking=masking, teacher_rates="ignore")
    hidden_where_predicted = (views & hidden(unclipped)).any(1)
    assert torch.equal(masked_set(noised.teacher), hidden_where_predicted & in_active_chunks(noised))
    for chunk in range(3):
        whole = student_masked[:, torch.tensor(student) == chunk].all(1)
        whole &= hidden_where_predicted[:, torch.tensor(teacher) == chunk].all(1)
        assert torch.equal(noised.chunk_mask[:, chunk], whole)


@given(batch=cross_batches(), seed=st.integers(0, 100), ratio=st.floats(0.1, 0.9))
def test_comp_demo_never_splits_a_chunk_between_its_views(batch, seed, ratio):
    noised = noise("tide_shared_chunks", TEACHER, batch, seed=seed, demo_ratio=ratio)
    views = hidden(noised)
    assert views.shape[1] == 2 and not (views[:, 0] & views[:, 1]).any()
    for sequence in range(len(views)):
        for chunk in range(batch.chunk_exists.shape[1]):
            of_chunk = views[sequence][:, batch.teacher.chunks[sequence] == chunk]
            assert torch.equal(of_chunk.all(1), of_chunk.any(1)) or not of_chunk.shape[1]
    # With one view the same chunks are hidden, and the same ones count.
    single = noise("calm", TEACHER, batch, seed=seed)
    assert torch.equal(views.any(1), hidden(single)[:, 0])
    assert torch.equal(noised.chunk_mask, single.chunk_mask)
    row, view = noised.teacher.rows, noised.teacher.row_views
    length = views.shape[2]
    assert views[row // length, view, row % length].all()


def test_chunks_and_tokens_outside_are_split_at_the_demo_ratio():
    batch, t = repeated([0, 0, 1, -1], [0, 1, 1, -1, -1]), torch.ones(DRAWS)
    views = hidden(noise("tide_shared_chunks", TEACHER, batch, t, demo_ratio=0.3))
    for token in range(5):
        assert_rate(views[:, 1, token], 0.3)
    for one, other in ((0, 1), (1, 3), (3, 4)):  # different chunks and tokens fall independently
        assert_rate(views[:, 1, one] & views[:, 1, other], 0.09)


@pytest.mark.parametrize("rates", [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_clipping_to_the_ends_of_the_unit_interval(rates, rate):
    loss_mask = torch.tensor([[True, True, True, False]])
    drawn = (torch.tensor([[[True, False, True, False]]]) & (rate > 0)) | (loss_mask & (rate == 1))
    noises = torch.tensor([[[0.0, 0.0, 0.99, 0.0]]])
    out = clip_to_rates(drawn, noises, loss_mask, torch.tensor([[rate]]), rates)
    expected = drawn if rates == (0.0, 1.0) else loss_mask[:, None] & (rates[0] == 1)
    assert torch.equal(out, expected)
