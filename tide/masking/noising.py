"""Batch -> NoisedBatch: times, masks of both sides, and the teacher's views. Runs on the host.

A micro-step draws from one generator in a fixed order (times, student's mask, teacher's extras), so methods
that share data and seed share times and student masks.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from tide.batch import Batch, NoisedBatch, NoisedTokens, TokenBatch
from tide.masking.masks import (
    chunk_consistent_mask,
    complementary_views,
    random_mask,
    teacher_chunk_mask,
    touched_chunks,
)
from tide.masking.schedule import diffusion_weight, sample_timesteps

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from tide.config import MaskingConfig
    from tide.methods import Method


@dataclass(frozen=True)
class Noiser:
    """Draws the noise of a training step.

    Attributes:
        masking: the recipe's section.
        method: across tokenizers, the teacher masks whole chunks; with CompDemo, it reads two complementary
            views. It has the student's mask otherwise.
        student_mask_id, teacher_mask_id: ids of the mask tokens.
    """

    masking: MaskingConfig
    method: Method
    _: KW_ONLY
    student_mask_id: int
    teacher_mask_id: int | None = None

    def __call__(
        self, batch: Batch, generator: torch.Generator, t: Float[Tensor, "B"] | None = None
    ) -> NoisedBatch:
        """Noise a batch on the CPU. Times are drawn if `t` is None."""
        student, num_chunks = batch.student, batch.chunk_exists.shape[1]
        if t is None:
            epsilon = self.masking.time_epsilon
            t = sample_timesteps(len(student.token_ids), time_epsilon=epsilon, generator=generator)
        if self.masking.student_masking == "chunks":
            masked = chunk_consistent_mask(student, num_chunks, t, generator=generator)
        else:
            masked = random_mask(student, t, generator=generator)
        any_masked, all_masked = touched_chunks(masked, student.chunks, num_chunks)
        teacher, chunk_mask = None, torch.zeros_like(batch.chunk_exists)
        if batch.teacher is not None and self.teacher_mask_id is not None:
            teacher_masked = masked
            if self.method.across_tokenizers:
                # The teacher must not see any part of what the student has to predict.
                teacher_masked = teacher_chunk_mask(batch.teacher, any_masked, t, generator=generator)
                chunk_mask = all_masked & batch.chunk_exists
            teacher = self._teacher_views(batch.teacher, teacher_masked, self.teacher_mask_id, generator)
        return NoisedBatch(
            student=one_view(student, masked, self.student_mask_id),
            teacher=teacher,
            t=t,
            diffusion_weight=diffusion_weight(t),
            loss_mask=student.loss_mask,
            student_chunks=student.chunks,
            teacher_chunks=None if batch.teacher is None else batch.teacher.chunks,
            chunk_mask=chunk_mask,
        )

    def _teacher_views(
        self, tokens: TokenBatch, masked: Bool[Tensor, "B L"], mask_id: int, generator: torch.Generator
    ) -> NoisedTokens:
        noised, ratio = one_view(tokens, masked, mask_id), self.masking.demo_ratio
        if not self.method.comp_demo:
            return noised
        views, view_of_token = complementary_views(
            tokens.token_ids, masked, mask_id=mask_id, demo_ratio=ratio, generator=generator
        )
        return replace(noised, views=views, row_views=view_of_token.flatten()[noised.rows])


def one_view(tokens: TokenBatch, masked: Bool[Tensor, "B L"], mask_id: int) -> NoisedTokens:
    """A single noised view, in which every masked token is a row."""
    rows = masked.flatten().nonzero().flatten()
    views = tokens.token_ids.masked_fill(masked, mask_id)[:, None]
    return NoisedTokens(tokens.token_ids, tokens.valid, views, rows, torch.zeros_like(rows))


def keyed_generator(*key: int) -> torch.Generator:
    """A CPU generator that depends on `key` (seed, step, ...) alone: there is no state to save."""
    # Mixed first: torch's CPU generator reads only the low 32 bits of its seed.
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint32)[0])
    return torch.Generator().manual_seed(seed)
