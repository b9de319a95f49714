"""Evaluation: held-out likelihood in units that compare across tokenizers."""

from tide.evaluation.likelihood import TIMES, HeldOutLikelihood, held_out_likelihood

__all__ = ["TIMES", "HeldOutLikelihood", "held_out_likelihood"]
