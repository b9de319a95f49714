"""Noiser: what a step is made of, and that the noise of the student does not depend on the method."""

from __future__ import annotations

import dataclasses
import hashlib

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
from tide.batch import Batch, NoisedTokens
from tide.config import MaskingConfig
from tide.contract import Contract
from tide.masking import Noiser, touched_chunks
from tide.methods import METHODS


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noiser_of(method: str, **masking: object) -> Noiser:
    teacher = Contract(TEACHER_MASK, 4) if METHODS[method].has_teacher else None
    return Noiser(MaskingConfig(**masking), METHODS[method], Contract(STUDENT_MASK, 4), teacher)


def check_consistent(noised: NoisedTokens, mask_id: int, read: torch.Tensor | bool = True) -> None:
    """Rows ascend: the hidden tokens that are read, each in a view that hides it; the rest is clean text."""
    length = noised.token_ids.shape[1]
    assert noised.rows.dtype == noised.row_views.dtype == torch.int64
    assert (noised.rows.diff() > 0).all()
    assert noised.labels.tolist() == [
        int(noised.token_ids[row // length, row % length]) for row in noised.rows
    ]
    for row, view in zip(noised.rows.tolist(), noised.row_views.tolist(), strict=True):
        assert noised.views[row // length, view, row % length] == mask_id
    hidden = noised.views == mask_id
    assert torch.equal(hidden.any(1) & read, masked_set(noised))
    clean = noised.token_ids[:, None].expand_as(noised.views)
    assert torch.equal(torch.where(hidden, clean, noised.views), clean)


def example_batches() -> dict[str, tuple[Batch, Noiser]]:
    """One student's side with every kind of teacher's side."""
    student = token_batch([[-1, 0, 0, 1, 1, -1], [-1, 0, 1, 1, -1, -1]], prompt=1, lengths=[6, 5])
    teacher = token_batch([[-1, 0, 1, 1, 1], [-1, 0, 0, 1, -1]], prompt=1, lengths=[5, 5])
    # Without a second tokenizer the same tokens are in no chunk.
    alone = dataclasses.replace(student, chunks=torch.full_like(student.chunks, -1))
    none = Batch(alone, None, torch.zeros((2, 0), dtype=torch.bool))
    return {
        "none": (none, noiser_of("none")),
        "kl": (same_batch(alone), noiser_of("kl")),
        "tide_shared": (same_batch(alone), noiser_of("tide_shared")),
        "tide_cross": (cross_batch(student, teacher), noiser_of("tide_cross")),
    }


@pytest.mark.parametrize("seed", range(5))
def test_times_and_student_masks_do_not_depend_on_the_method(seed):
    noised = {name: noiser(batch, generator(seed)) for name, (batch, noiser) in example_batches().items()}
    first = noised.pop("none")
    for other in noised.values():
        assert torch.equal(other.t, first.t)
        assert torch.equal(other.student.rows, first.student.rows)
        assert torch.equal(other.student.views, first.student.views)


@pytest.mark.parametrize(
    ("methods", "masking", "digest"),
    [
        (("none",), "tokens", "e4b59c8056bade17"),
        (("kl", "reverse_kl", "taid", "tidal"), "tokens", "23f276b2a89d7d7b"),
        (("tide_shared",), "tokens", "c1c6fe46ede646b6"),
        (("calm", "tide_cross"), "tokens", "85091802962ad8b6"),
        (("calm", "tide_cross"), "chunks", "8f92f1630dc90d11"),
    ],
)
def test_draws_are_the_recorded_ones(methods, masking, digest):
    """A run that is resumed after an update goes on as it would have."""
    chunks = [
        [0, 0, 1, 1, 1, -1, 2, 3, 3, -1],
        [0, 1, 1, -1, 2, 2, 2, 2, -1, -1],
        [-1, 0, 0, 0, 0, 1] + [-1] * 4,
    ]
    student = token_batch([[-1, -1, *row] for row in chunks], prompt=2, lengths=[12, 11, 9])
    chunks = [[0, 1, 1, 2, 2, 2, 3, -1], [0, 0, 1, 1, 2, -1, -1, -1], [0, 0, 1, 1, 1, 1, -1, -1]]
    teacher = token_batch([[-1, -1, -1, *row] for row in chunks], prompt=3, lengths=[11, 9, 10])
    alone = dataclasses.replace(student, chunks=torch.full_like(student.chunks, -1))
    batches = {
        "none": Batch(alone, None, torch.zeros((3, 0), dtype=torch.bool)),
        "shared": same_batch(alone),
        "any": cross_batch(student, teacher),
    }
    for method in methods:
        noiser, batch = noiser_of(method, student_masking=masking), batches[METHODS[method].teacher]
        draw, digests = generator(), ""
        for _ in range(20):
            noised, drawn = noiser(batch, draw), hashlib.sha256()
            sides = [side for side in (noised.student, noised.teacher) if side is not None]
            tensors = [x for side in sides for x in (side.views, side.rows, side.row_views)]
            for tensor in (*tensors, noised.t, noised.diffusion_weight, noised.chunk_mask):
                drawn.update(tensor.numpy().tobytes())
            digests += drawn.hexdigest()[:16]
        assert hashlib.sha256(digests.encode()).hexdigest()[:16] == digest, method


@pytest.mark.parametrize("time", [0.05, 0.4])
def test_the_unbiased_weight_is_one_over_the_rate_that_applies(time):
    """In expectation every token then weighs 1; with the official weight 1/t, tokens of long chunks more."""
    draws, chunks = 40_000, [-1, 0, 0, 0, 0, 1, 2, 2]
    batch = cross_batch(token_batch([chunks] * draws), token_batch([[0, 1, 2]] * draws))
    t = torch.full((draws,), time)
    noised = noiser_of("calm", student_masking="consistent")(batch, generator(), t)
    official = noiser_of("calm", student_masking="consistent", consistent_weight="official")(
        batch, generator(), t
    )
    masked = masked_set(noised.student)
    assert torch.equal(masked, masked_set(official.student))
    assert torch.equal(official.diffusion_weight, 1 / t)
    assert noised.diffusion_weight.shape == masked.shape and noised.diffusion_weight.dtype == torch.float32
    for token, chunk in enumerate(chunks):
        rate = 1 - (1 - time) ** (chunks.count(chunk) if chunk >= 0 else 1)
        weights = masked[:, token] * noised.diffusion_weight[:, token].double()
        error = 5 * (rate * (1 - rate) / draws) ** 0.5
        assert abs(float(weights.mean()) - 1) <= error / rate
        assert (
            abs(float((masked[:, token] * official.diffusion_weight).double().mean()) - rate / time)
            <= error / time
        )
    # Where any of a chunk is drawn, all of it is masked, and it counts.
    touched, whole = touched_chunks(masked, batch.student.chunks, 3)
    assert torch.equal(noised.chunk_mask, touched) and torch.equal(touched, whole)


def test_a_chunk_is_touched_at_the_rate_of_its_tokens_in_the_loss():
    batch = cross_batch(token_batch([[0, 0, 0, 1]], prompt=1), token_batch([[0, 1]]))
    noised = noiser_of("calm", student_masking="consistent")(batch, generator(), torch.tensor([0.5]))
    assert noised.diffusion_weight[0].tolist() == pytest.approx([1 / 0.75] * 3 + [2.0])


def test_other_seeds_draw_other_noise():
    batch, noiser = example_batches()["none"]
    drawn = {tuple(noiser(batch, generator(seed)).student.rows.tolist()) for seed in range(20)}
    assert len(drawn) > 10


@pytest.mark.parametrize("name", ["none", "kl", "tide_shared", "tide_cross"])
@pytest.mark.parametrize("seed", range(8))
def test_both_sides_are_consistent(name, seed):
    batch, noiser = example_batches()[name]
    noised = noiser(batch, generator(seed))
    check_consistent(noised.student, STUDENT_MASK)
    assert noised.student.views.shape[1] == 1 and not noised.student.row_views.any()
    torch.testing.assert_close(noised.diffusion_weight, 1 / noised.t)
    if name == "none":
        assert noised.teacher is None and noised.teacher_chunks is None
        return
    across = name == "tide_cross"
    check_consistent(noised.teacher, TEACHER_MASK, in_active_chunks(noised) if across else True)
    assert noised.teacher.views.shape[1] == (2 if name == "tide_shared" else 1)
    if not across:
        assert torch.equal(noised.teacher.rows, noised.student.rows)
        assert noised.chunk_mask.shape == (2, 0)


@given(
    batch=cross_batches(),
    seed=st.integers(0, 100),
    masking=st.sampled_from(["tokens", "chunks", "consistent"]),
)
def test_active_chunks_are_whole_on_both_sides_and_the_teacher_sees_no_answer(batch, seed, masking):
    noiser = noiser_of("tide_cross", student_masking=masking)
    noised = noiser(batch, generator(seed))
    check_consistent(noised.teacher, TEACHER_MASK, in_active_chunks(noised))
    student, teacher = masked_set(noised.student), noised.teacher.views[:, 0] == TEACHER_MASK
    assert noised.chunk_mask.shape == batch.chunk_exists.shape
    for sequence in range(len(student)):
        for chunk in range(batch.chunk_exists.shape[1]):
            hidden = student[sequence][batch.student.chunks[sequence] == chunk]
            shown = teacher[sequence][batch.teacher.chunks[sequence] == chunk]
            whole = len(hidden) > 0 and len(shown) > 0 and bool(hidden.all()) and bool(shown.all())
            assert bool(noised.chunk_mask[sequence, chunk]) == whole
            assert bool(shown.all() if hidden.any() else not shown.any())
            if masking != "tokens" and len(hidden):
                assert bool(hidden.all()) == bool(hidden.any())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("masking", ["tokens", "chunks", "consistent"])
def test_two_tokenizers_that_share_no_chunk(seed, masking):
    """A single text may align nowhere; its two sides are then of any length and hide tokens by themselves.

    The teacher is asked nothing, so it is not run.
    """
    batch = Batch(plain_batch(1, 20), plain_batch(1, 33), torch.zeros((1, 0), dtype=torch.bool))
    noiser = noiser_of("tide_cross", student_masking=masking)
    noised = noiser(batch, generator(seed), torch.tensor([0.5]))
    check_consistent(noised.student, STUDENT_MASK)
    check_consistent(noised.teacher, TEACHER_MASK, in_active_chunks(noised))
    assert 2 < len(noised.student.rows) < 18 and 5 < int((noised.teacher.views == TEACHER_MASK).sum()) < 28
    assert not len(noised.teacher.rows) and not noised.teacher.valid.any()
    assert noised.chunk_mask.shape == (1, 0)
    assert noised.teacher_chunks.shape == (1, 33)


def test_the_method_decides_the_teachers_mask():
    """Equal lengths do not make two tokenizers one, nor chunks one tokenizer two."""
    tokens = plain_batch(4, 40)
    across = noiser_of("tide_cross")
    noised = across(same_batch(tokens), generator(), torch.full((4,), 0.5))
    assert not torch.equal(noised.teacher.views[:, 0] == TEACHER_MASK, masked_set(noised.student))

    chunked = token_batch([[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 3)
    noised = noiser_of("kl")(cross_batch(chunked, chunked), generator(), torch.full((3,), 0.5))
    assert torch.equal(noised.teacher.rows, noised.student.rows)
    _, all_masked = touched_chunks(masked_set(noised.student), chunked.chunks, 3)
    assert all_masked.any() and not noised.chunk_mask.any()


def test_comp_demo_predicts_each_token_from_the_view_that_hides_it():
    tokens = plain_batch(4, 50)
    noised = noiser_of("tide_shared", demo_ratio=0.3)(same_batch(tokens), generator(), torch.full((4,), 0.8))
    assert 0.15 < (noised.teacher.row_views == 1).double().mean() < 0.45  # A is predicted by view 1
    other = 1 - noised.teacher.row_views
    shown = noised.teacher.views[noised.teacher.rows // 50, other, noised.teacher.rows % 50]
    assert torch.equal(shown, noised.teacher.labels)


def test_given_times_are_used():
    batch, noiser = example_batches()["none"]
    t = torch.tensor([0.25, 1.0])
    noised = noiser(batch, generator(), t)
    assert torch.equal(noised.t, t)
    assert noised.diffusion_weight.tolist() == [4.0, 1.0]
    assert torch.equal(masked_set(noised.student)[1], batch.student.loss_mask[1])


def test_nothing_masked_leaves_no_rows():
    for batch, noiser in example_batches().values():
        silent = dataclasses.replace(batch.student, loss_mask=torch.zeros_like(batch.student.loss_mask))
        quiet = dataclasses.replace(batch, student=silent)
        if batch.teacher is not None:
            unread = torch.zeros_like(batch.teacher.loss_mask)
            quiet = dataclasses.replace(quiet, teacher=dataclasses.replace(batch.teacher, loss_mask=unread))
        noised = noiser(quiet, generator(), torch.ones(2))
        for side in (noised.student, noised.teacher):
            if side is not None:
                assert side.rows.shape == side.row_views.shape == side.labels.shape == (0,)
                assert torch.equal(side.views, side.token_ids[:, None].expand_as(side.views))
        assert not noised.chunk_mask.any()


def test_a_batch_is_not_written_to():
    for batch, noiser in example_batches().values():
        before = {
            (side, field.name): getattr(getattr(batch, side), field.name).clone()
            for side in ("student", "teacher")
            if getattr(batch, side) is not None
            for field in dataclasses.fields(getattr(batch, side))
        }
        noiser(batch, generator())
        for (side, name), value in before.items():
            assert torch.equal(getattr(getattr(batch, side), name), value)
