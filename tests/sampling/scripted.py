"""A model that answers from a script and records its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple

import torch
from transformers import PreTrainedConfig


class Call(NamedTuple):
    """input_ids, positions: [B, S]; mask: [B, S, S]."""

    input_ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor


class ScriptedModel(torch.nn.Module):
    """At position p the most likely token is script[p], the surer the higher confidence[p].

    Args:
        vocab_size: V; hidden states are the logits themselves, under a head that is the identity.
        script: [P] token ids.
        confidence: [P] logits of the script's tokens; all others are 0.
        favourite: a token that is likelier still, at every position.
    """

    def __init__(
        self,
        vocab_size: int,
        script: Sequence[int],
        confidence: Sequence[float] | None = None,
        favourite: int | None = None,
    ) -> None:
        super().__init__()
        confidence = [5.0] * len(script) if confidence is None else confidence
        self.logits = (
            torch.nn.functional.one_hot(torch.tensor(script), vocab_size) * torch.tensor(confidence)[:, None]
        )
        if favourite is not None:
            self.logits[:, favourite] = 100.0
        self.head = torch.nn.Linear(vocab_size, vocab_size, bias=False)
        torch.nn.init.eye_(self.head.weight)
        self.config = PreTrainedConfig(attn_implementation="sdpa")
        self.device = torch.device("cpu")
        self.calls: list[Call] = []

    @property
    def base_model(self) -> ScriptedModel:
        return self

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.head

    def forward(self, input_ids, position_ids, attention_mask, use_cache) -> SimpleNamespace:
        assert not use_cache
        self.calls.append(Call(input_ids.clone(), position_ids.clone(), attention_mask[:, 0].clone()))
        return SimpleNamespace(last_hidden_state=self.logits[position_ids])
