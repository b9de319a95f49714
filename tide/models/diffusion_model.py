"""A network with its contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tide.contract import Contract


@dataclass(frozen=True)
class DiffusionModel:
    """A block-diffusion model.

    Attributes:
        network: a causal language model of transformers; a layout's mask makes it bidirectional.
        contract: how it was trained to read a noised text.
    """

    network: PreTrainedModel
    contract: Contract
