"""Masking: the tokens that are hidden from the student and from the teacher, and when."""

from tide.masking.masks import (
    chunk_consistent_mask,
    clip_to_rates,
    complementary_masks,
    random_mask,
    teacher_chunk_mask,
    touched_chunk_mask,
    touched_chunks,
)
from tide.masking.noising import Noiser, check_teacher, keyed_generator, one_view, predictable
from tide.masking.schedule import (
    diffusion_weight,
    masking_probability,
    sample_timesteps,
    touched_probability,
)

__all__ = [
    "Noiser",
    "check_teacher",
    "chunk_consistent_mask",
    "clip_to_rates",
    "complementary_masks",
    "diffusion_weight",
    "keyed_generator",
    "masking_probability",
    "one_view",
    "predictable",
    "random_mask",
    "sample_timesteps",
    "teacher_chunk_mask",
    "touched_chunk_mask",
    "touched_chunks",
    "touched_probability",
]
