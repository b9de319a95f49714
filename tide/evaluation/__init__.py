"""Evaluation: held-out likelihood that compares across tokenizers."""

from tide.evaluation.likelihood import TIMES, HeldOutLikelihood, held_out_likelihood

__all__ = ["TIMES", "HeldOutLikelihood", "held_out_likelihood"]
