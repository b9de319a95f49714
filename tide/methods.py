"""The methods by name: what each needs of the teacher, and which terms it trains on. Imports nothing heavy.

Source: TIDE (arXiv 2604.26951) §2; docs/glossary.md maps its names to the official code's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LambdaAxis = Literal["both", "training", "timestep"]
TimestepWeight = Literal["uniform", "midrange"]
Term = Literal["cross_entropy", "forward_kl", "reverse_kl", "tidal", "calm", "reverse_calm", "tidal_chunks"]


@dataclass(frozen=True)
class Method:
    """A distillation method.

    Attributes:
        term: the distillation term of `tide.losses.objective` that is added to the cross-entropy.
        summary: one line for help texts.
        teacher: "none"; "shared" (one vocabulary); "any" (chunks align two tokenizers).
        lambda_axis, timestep_weight: defaults that `objective:` in a recipe may override.
        comp_demo: run the teacher on complementary views (CompDemo).
    """

    term: Term
    summary: str
    teacher: Literal["none", "shared", "any"]
    lambda_axis: LambdaAxis = "both"
    timestep_weight: TimestepWeight = "uniform"
    comp_demo: bool = False

    @property
    def has_teacher(self) -> bool:
        """True if the method runs a teacher."""
        return self.teacher != "none"

    @property
    def across_tokenizers(self) -> bool:
        """True if the teacher may have a tokenizer of its own; chunks are aligned then."""
        return self.teacher == "any"


METHODS: dict[str, Method] = {
    "none": Method("cross_entropy", "block diffusion without distillation", "none"),
    "kl": Method("forward_kl", "forward KL to the teacher", "shared"),
    "reverse_kl": Method("reverse_kl", "reverse KL to the teacher", "shared"),
    "taid": Method("tidal", "interpolated target, over training only", "shared", lambda_axis="training"),
    "tidal": Method("tidal", "interpolated target, over training and timestep", "shared"),
    "tide_shared": Method("tidal", "TIDAL + CompDemo", "shared", timestep_weight="midrange", comp_demo=True),
    "calm": Method("calm", "chunk likelihoods, forward, across tokenizers", "any"),
    "tide_cross": Method("reverse_calm", "Reverse CALM across tokenizers", "any"),
    "tide_shared_chunks": Method(
        "tidal_chunks",
        "TIDAL on chunk likelihoods + CompDemo by whole chunks, across tokenizers",
        "any",
        timestep_weight="midrange",
        comp_demo=True,
    ),
}


def names_across_tokenizers() -> str:
    """The methods that align two tokenizers, for a remedy in an error: "calm or ..."."""
    return " or ".join(name for name, method in METHODS.items() if method.across_tokenizers)
