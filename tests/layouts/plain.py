"""Contracts from their definition: each view of a text whole and alone, its mask made pair by pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from hypothesis import strategies as st

from tests.batches import STUDENT_MASK as MASK
from tests.batches import noised_tokens
from tide.batch import NoisedTokens
from tide.contract import AUTOREGRESSIVE, Contract

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from transformers import PreTrainedModel

CONTRACTS = {
    "blocks": Contract(MASK, 4),
    "blocks of one token": Contract(MASK, 1),
    "observed first": Contract(MASK, 4, "observed_first"),
    "whole text": Contract(MASK, None),
    "whole text, observed first": Contract(MASK, None, "observed_first"),
    "whole text, shifted": Contract(MASK, None, shift=1),
    "blocks, shifted": Contract(MASK, 4, shift=1),
    "autoregressive": AUTOREGRESSIVE,
}


def may_attend(query: int, key: int, contract: Contract, masked: list[bool]) -> bool:
    """In [x_t | x_0] of one text; `masked` tokens of x_t."""
    length = len(masked)
    (query_clean, query), (key_clean, key) = divmod(query, length), divmod(key, length)
    size = contract.block_size or length
    query_block, key_block = query // size, key // size
    if query_clean != key_clean:
        return bool(key_clean) and key_block < query_block
    if contract.in_block == "bidirectional":
        return key_block <= query_block if query_clean else key_block == query_block
    if query_clean:
        return key <= query
    if key_block != query_block:
        return False
    if masked[query] != masked[key]:
        return masked[query]
    return key <= query


def plain_states(
    network: PreTrainedModel, clean: Tensor, view: Tensor, contract: Contract
) -> Float[Tensor, "L d"]:
    """Hidden states of x_t, or of x_0 under an autoregressive model's own causal attention."""
    if contract.autoregressive:
        return network.base_model(input_ids=clean[None], use_cache=False).last_hidden_state[0]
    length, masked = len(clean), (view == MASK).tolist()
    ids = view if contract.block_size is None else torch.cat([view, clean])
    bias = [
        [0.0 if may_attend(query, key, contract, masked) else -torch.inf for key in range(len(ids))]
        for query in range(len(ids))
    ]
    out = network.base_model(
        input_ids=ids[None],
        position_ids=torch.arange(length).repeat(len(ids) // length)[None],
        attention_mask=torch.tensor(bias, dtype=network.dtype)[None, None],
        use_cache=False,
    )
    return out.last_hidden_state[0, :length]


def plain_rows(network: PreTrainedModel, noised: NoisedTokens, contract: Contract) -> Float[Tensor, "N d"]:
    """The hidden row that predicts each token; `shift` positions before it, in a text that has one there."""
    states, rows = {}, []
    for row, view in zip(noised.rows.tolist(), noised.row_views.tolist(), strict=True):
        text, token = divmod(row, noised.token_ids.shape[1])
        if (text, view) not in states:
            end = int(noised.valid[text].sum())
            clean, seen = noised.token_ids[text, :end], noised.views[text, view, :end]
            states[text, view] = plain_states(network, clean, seen, contract)
        rows.append(states[text, view][max(token - contract.shift, 0)])
    return torch.stack(rows) if rows else torch.zeros((0, network.config.hidden_size), dtype=network.dtype)


@st.composite
def noised_texts(draw: st.DrawFn) -> NoisedTokens:
    """Texts behind prompts, with empty ones, texts without a mask, padding, one or two views."""
    lengths = draw(st.lists(st.integers(0, 11), min_size=1, max_size=4))
    prompts = [draw(st.integers(1, 8)) for _ in lengths]
    width = max(lengths) + draw(st.integers(0, 2)) or 1
    masked = torch.zeros((len(lengths), width), dtype=torch.bool)
    for text, (length, prompt) in enumerate(zip(lengths, prompts, strict=True)):
        for token in range(prompt, length):
            masked[text, token] = draw(st.booleans())
    return noised_tokens(masked, views=draw(st.integers(1, 2)), lengths=tuple(lengths))
