"""Batch -> NoisedBatch: times, masks of both sides, and the teacher's views. Runs on the host.

Noise is drawn from one generator per micro-step in a fixed order (times, student's mask, teacher's extras),
so methods that share data and seed share times and student masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from tide.batch import Batch, NoisedBatch, NoisedTokens, TokenBatch
from tide.masking.complementary import complementary_views
from tide.masking.masks import chunk_consistent_mask, random_mask, teacher_chunk_mask, touched_chunks
from tide.masking.schedule import diffusion_weight, sample_timesteps

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


@dataclass(frozen=True)
class Noiser:
    """Draws the noise of a training step.

    Attributes:
        student_mask_id, teacher_mask_id: the mask tokens' ids.
        time_epsilon: smallest diffusion time.
        student_masking: "tokens" masks the student's tokens independently; "chunks" masks whole chunks with
            probability t.
        across_tokenizers: the teacher has tokens of its own and hides whole chunks; its mask is the student's
            otherwise.
        comp_demo: run the teacher on two complementary views (one tokenizer only).
        demo_ratio: share of the masked set that the first view reveals.
    """

    student_mask_id: int
    teacher_mask_id: int | None = None
    time_epsilon: float = 1e-3
    student_masking: str = "tokens"
    across_tokenizers: bool = False
    comp_demo: bool = False
    demo_ratio: float = 0.5

    def __call__(
        self, batch: Batch, generator: torch.Generator, t: Float[Tensor, "B"] | None = None
    ) -> NoisedBatch:
        """Noises `batch` (on the CPU). `t` fixes the times (evaluation); they are drawn otherwise."""
        student, num_chunks = batch.student, batch.chunk_exists.shape[1]
        if t is None:
            t = sample_timesteps(
                student.token_ids.shape[0], time_epsilon=self.time_epsilon, generator=generator
            )
        if self.student_masking == "chunks":
            masked = chunk_consistent_mask(student, num_chunks, t, generator=generator)
        else:
            masked = random_mask(student, t, generator=generator)
        any_masked, all_masked = touched_chunks(masked, student.chunks, num_chunks)
        teacher, chunk_mask = None, torch.zeros_like(batch.chunk_exists)
        if batch.teacher is not None and self.teacher_mask_id is not None:
            if self.across_tokenizers:
                # The teacher hides every chunk that the student has to predict a part of.
                teacher_masked = teacher_chunk_mask(batch.teacher, any_masked, t, generator=generator)
                chunk_mask = all_masked & batch.chunk_exists
            else:
                teacher_masked = masked
            teacher = self._teacher_views(batch.teacher, teacher_masked, generator)
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
        self, tokens: TokenBatch, masked: Bool[Tensor, "B L"], generator: torch.Generator
    ) -> NoisedTokens:
        assert self.teacher_mask_id is not None
        if not self.comp_demo:
            return one_view(tokens, masked, self.teacher_mask_id)
        views, view_of_token = complementary_views(
            tokens.token_ids,
            masked,
            mask_id=self.teacher_mask_id,
            demo_ratio=self.demo_ratio,
            generator=generator,
        )
        rows = masked.flatten().nonzero().flatten()
        return NoisedTokens(tokens.token_ids, tokens.valid, views, rows, view_of_token.flatten()[rows])


def one_view(tokens: TokenBatch, masked: Bool[Tensor, "B L"], mask_id: int) -> NoisedTokens:
    """One noised view: the tokens of `masked` replaced by the mask id, and their rows counted."""
    rows = masked.flatten().nonzero().flatten()
    views = tokens.token_ids.masked_fill(masked, mask_id)[:, None]
    return NoisedTokens(tokens.token_ids, tokens.valid, views, rows, torch.zeros_like(rows))


def keyed_generator(*key: int) -> torch.Generator:
    """A CPU generator whose draws depend on `key` (seed, step, ...) alone: no state to save or restore."""
    # Mixed first: torch's CPU generator reads the low 32 bits of its seed only.
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint32)[0])
    return torch.Generator().manual_seed(seed)
