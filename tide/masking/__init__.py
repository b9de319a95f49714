"""Masking: the tokens that are hidden from the student and from the teacher, and when."""

from tide.masking.masks import (
    chunk_consistent_mask,
    complementary_views,
    random_mask,
    teacher_chunk_mask,
    touched_chunks,
)
from tide.masking.noising import Noiser, keyed_generator, one_view
from tide.masking.schedule import diffusion_weight, masking_probability, sample_timesteps

__all__ = [
    "Noiser",
    "chunk_consistent_mask",
    "complementary_views",
    "diffusion_weight",
    "keyed_generator",
    "masking_probability",
    "one_view",
    "random_mask",
    "sample_timesteps",
    "teacher_chunk_mask",
    "touched_chunks",
]
