"""Evaluation: held-out likelihood in units that compare across tokenizers."""

from tide.evaluation.likelihood import STRATA, TIMES, HeldOutLikelihood, LikelihoodBound, held_out_likelihood
from tide.evaluation.references import HeldOutReferences, evaluate_references, read_references

__all__ = [
    "STRATA",
    "TIMES",
    "HeldOutLikelihood",
    "HeldOutReferences",
    "LikelihoodBound",
    "evaluate_references",
    "held_out_likelihood",
    "read_references",
]
