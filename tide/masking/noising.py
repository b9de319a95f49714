"""Batch -> NoisedBatch: times, masks of both sides, and the teacher's views. Runs on the host.

A micro-step draws from one generator in a fixed order (times, student's mask, teacher's extras), so methods
that share data and seed share times and student masks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from tide.batch import Batch, NoisedBatch, NoisedTokens, TokenBatch
from tide.masking.masks import (
    chunk_consistent_mask,
    chunk_counts,
    clip_to_rates,
    complementary_masks,
    of_chunk,
    random_mask,
    shared_noise,
    teacher_chunk_mask,
    touched_chunk_mask,
    touched_chunks,
)
from tide.masking.schedule import (
    diffusion_weight,
    masking_probability,
    sample_timesteps,
    touched_probability,
)
from tide.methods import METHODS

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from tide.config import MaskingConfig
    from tide.contract import Contract
    from tide.methods import Method


@dataclass(frozen=True)
class Noiser:
    """Draws the noise of a training step.

    Attributes:
        masking: the recipe's section.
        method: across tokenizers, the teacher masks whole chunks, and predicts those that count; with
            CompDemo, it reads two complementary views. It has the student's mask otherwise.
        student, teacher: their contracts. A teacher is asked at mask rates of its contract, as
            `masking.teacher_rates` says, and an autoregressive one reads no view at all.
    Raises:
        ValueError: the student is autoregressive, or the teacher does not fit the method.
    """

    masking: MaskingConfig
    method: Method
    student: Contract
    teacher: Contract | None = None

    def __post_init__(self) -> None:
        if self.student.mask_id is None:
            raise ValueError(
                "Noiser: the student's contract has no mask_id, so it is autoregressive and reads no noised "
                "text. Convert it to a block-diffusion model first."
            )
        check_teacher(self.method, self.teacher)

    def __call__(
        self, batch: Batch, generator: torch.Generator, t: Float[Tensor, "B"] | None = None
    ) -> NoisedBatch:
        """Noise a batch on the CPU. Times are drawn if `t` is None."""
        student = batch.student
        student = replace(student, loss_mask=predictable(student.loss_mask, self.student))
        batch = replace(batch, student=student)
        if t is None:
            epsilon = self.masking.time_epsilon
            t = sample_timesteps(len(student.token_ids), time_epsilon=epsilon, generator=generator)
        masked = self._student_mask(student, batch.chunk_exists.shape[1], t, generator)
        weight = diffusion_weight(t)
        if self.masking.student_masking == "consistent" and self.masking.consistent_weight == "unbiased":
            weight = diffusion_weight(self._mask_rates(batch, student, t))
        teacher, chunk_mask = None, torch.zeros_like(batch.chunk_exists)
        if batch.teacher is not None and self.teacher is not None:
            teacher, chunk_mask = self._teacher_views(batch, batch.teacher, masked, t, generator)
        return NoisedBatch(
            student=one_view(student, masked, self.student.mask_id),
            teacher=teacher,
            t=t,
            diffusion_weight=weight,
            loss_mask=student.loss_mask,
            student_chunks=student.chunks,
            teacher_chunks=None if batch.teacher is None else batch.teacher.chunks,
            chunk_mask=chunk_mask,
        )

    def _student_mask(
        self, student: TokenBatch, num_chunks: int, t: Float[Tensor, "B"], generator: torch.Generator
    ) -> Bool[Tensor, "B L"]:
        if self.masking.student_masking == "chunks":
            return chunk_consistent_mask(student, num_chunks, t, generator=generator)
        if self.masking.student_masking == "consistent":
            return touched_chunk_mask(student, num_chunks, t, generator=generator)
        return random_mask(student, t, generator=generator)

    def _mask_rates(self, batch: Batch, tokens: TokenBatch, t: Float[Tensor, "B"]) -> Float[Tensor, "B L"]:
        """The rate at which each token of either side's loss mask is masked, chunks whole."""
        rate = t[:, None].expand(tokens.chunks.shape)
        if self.masking.student_masking == "chunks":
            return masking_probability(rate)
        student, num_chunks = batch.student, batch.chunk_exists.shape[1]
        counts = chunk_counts(student.loss_mask, student.chunks, num_chunks)
        return touched_probability(rate, of_chunk(counts, tokens.chunks, outside=1))

    def _teacher_views(
        self,
        batch: Batch,
        tokens: TokenBatch,
        masked: Bool[Tensor, "B L"],
        t: Float[Tensor, "B"],
        generator: torch.Generator,
    ) -> tuple[NoisedTokens, Bool[Tensor, "B C"]]:
        """What the teacher reads and predicts, and the chunks that count."""
        teacher, num_chunks = self.teacher, batch.chunk_exists.shape[1]
        assert teacher is not None
        across = self.method.across_tokenizers

        def noise() -> Float[Tensor, "B M"]:
            if across:
                return shared_noise(tokens, num_chunks, generator=generator)
            return torch.rand(tokens.token_ids.shape, generator=generator)

        any_masked, all_masked = touched_chunks(masked, batch.student.chunks, num_chunks)
        if across:
            # The teacher must not see any part of what the student has to predict.
            masked = teacher_chunk_mask(tokens, any_masked, t, generator=generator)
        hidden = masked[:, None]
        if self.method.comp_demo:
            hidden = complementary_masks(masked, noise(), demo_ratio=self.masking.demo_ratio)
        predicted = hidden  # of each view
        if teacher.autoregressive:
            hidden = hidden[:, :0]
        elif teacher.rates != (0.0, 1.0) and self.masking.teacher_rates != "ignore":
            rate = self._view_rates(batch, tokens, t)
            if self.masking.teacher_rates == "skip":
                low, high = teacher.rates
                hidden = hidden & ((rate >= low) & (rate <= high))[..., None]
            else:
                noises = torch.stack([noise() for _ in range(hidden.shape[1])], dim=1)
                hidden = clip_to_rates(hidden, noises, tokens.loss_mask, rate, teacher.rates)
            predicted = predicted & hidden
        predicted = predictable(predicted, teacher)
        chunk_mask = torch.zeros_like(batch.chunk_exists)
        if across:
            _, whole = touched_chunks(predicted.any(1), tokens.chunks, num_chunks)
            chunk_mask = all_masked & whole & batch.chunk_exists
            predicted = predicted & of_chunk(chunk_mask, tokens.chunks, outside=False)[:, None]
        # No text is run of which nothing is asked.
        asked = replace(tokens, valid=tokens.valid & predicted.flatten(1).any(1, keepdim=True))
        return _views(asked, hidden, predicted, teacher.mask_id), chunk_mask

    def _view_rates(self, batch: Batch, tokens: TokenBatch, t: Float[Tensor, "B"]) -> Float[Tensor, "B K"]:
        """Expected share of the teacher's loss mask that each of its views hides."""
        rate = masking_probability(t)
        if self.method.across_tokenizers:
            rates = self._mask_rates(batch, tokens, t) * tokens.loss_mask
            rate = rates.sum(1) / tokens.loss_mask.sum(1).clamp_min(1)
        ratio = self.masking.demo_ratio
        return rate[:, None] * torch.tensor([1 - ratio, ratio] if self.method.comp_demo else [1.0])


def check_teacher(method: Method, teacher: Contract | None) -> None:
    """Refuse a teacher whose contract does not fit the method.

    Raises:
        ValueError: the method is CompDemo's, and the teacher autoregressive.
    """
    if method.comp_demo and teacher is not None and teacher.autoregressive:
        others = (name for name, other in METHODS.items() if other.teacher == method.teacher != "none")
        names = " or ".join(name for name in others if not METHODS[name].comp_demo)
        raise ValueError(
            "Noiser: CompDemo reveals half of the masked tokens to a teacher of noised text; this one is "
            f"autoregressive and reads clean text. Set method: {names}, or take a diffusion teacher."
        )


def one_view(tokens: TokenBatch, masked: Bool[Tensor, "B L"], mask_id: int | None) -> NoisedTokens:
    """A single noised view, in which every masked token is a row."""
    return _views(tokens, masked[:, None], masked[:, None], mask_id)


def _views(
    tokens: TokenBatch,
    hidden: Bool[Tensor, "B K L"],
    predicted: Bool[Tensor, "B _ L"],
    mask_id: int | None,
) -> NoisedTokens:
    """Views that hide tokens, and the rows that each of them predicts."""
    views = tokens.token_ids[:, None].expand(hidden.shape)
    if mask_id is not None:
        views = views.masked_fill(hidden, mask_id)
    rows = predicted.any(1).flatten().nonzero().flatten()
    row_views = predicted.long().argmax(1).flatten()[rows]
    return NoisedTokens(tokens.token_ids, tokens.valid, views, rows, row_views)


def predictable(mask: Bool[Tensor, "... L"], contract: Contract) -> Bool[Tensor, "... L"]:
    """The mask without the tokens that a shifted model has no output for: the first of a text."""
    return mask & (torch.arange(mask.shape[-1]) >= contract.shift)


def keyed_generator(*key: int) -> torch.Generator:
    """A CPU generator that depends on `key` (seed, step, ...) alone: there is no state to save."""
    # Mixed first: torch's CPU generator reads only the low 32 bits of its seed.
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint32)[0])
    return torch.Generator().manual_seed(seed)
