"""FlashAttention's bounds say what the mask of a plain contract says, and every model gets an attention."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers import modeling_flash_attention_utils as flash

from tests.batches import STUDENT_MASK as MASK
from tests.batches import noised_tokens
from tests.tiny import make_model
from tide.contract import AUTOREGRESSIVE, Contract
from tide.layouts import noised_layout, text_layout
from tide.models import attention, run, set_attention

VOCAB = MASK + 1
WHOLE = Contract(MASK, None)
SEPARATE = {"autoregressive": AUTOREGRESSIVE, "whole text": WHOLE, "shifted": Contract(MASK, None, shift=1)}
MASKED = {
    "blocks": Contract(MASK, 4),
    "observed first": Contract(MASK, 4, "observed_first"),
    "whole text, observed first": Contract(MASK, None, "observed_first"),
}


def texts(views: int = 1):
    masked = torch.rand((5, 23), generator=torch.Generator().manual_seed(1)) < 0.4
    masked[:, 0] = False
    return noised_tokens(masked, views=views, lengths=(23, 9, 13, 3, 17))


def varlen_by_definition(
    q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, softmax_scale, **_
):
    """flash-attn's function on fp32 tensors [tokens, heads, d] of a CPU."""
    assert torch.equal(cu_seqlens_q, cu_seqlens_k) and cu_seqlens_q.dtype == torch.int32
    assert (cu_seqlens_q[0], cu_seqlens_q[-1]) == (0, len(q))
    groups, output = q.shape[1] // k.shape[1], torch.empty_like(q)
    for start, end in zip(cu_seqlens_q[:-1].tolist(), cu_seqlens_q[1:].tolist(), strict=True):
        assert 0 < end - start <= min(max_seqlen_q, max_seqlen_k)
        query, key, value = (x[start:end].transpose(0, 1) for x in (q, k, v))
        scores = query @ key.repeat_interleave(groups, 0).mT * softmax_scale
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        output[start:end] = (scores.softmax(-1) @ value.repeat_interleave(groups, 0)).transpose(0, 1)
    return output


@pytest.fixture
def flash_attn(monkeypatch):
    """Stand in for flash-attn, which needs a GPU."""

    def arguments(*, max_seqlen_q, max_seqlen_k, is_causal, softmax_scale, **_):
        return {
            "max_seqlen_q": max_seqlen_q,
            "max_seqlen_k": max_seqlen_k,
            "causal": is_causal,
            "softmax_scale": softmax_scale,
        }

    functions = (None, varlen_by_definition, None, None, None), (arguments, None)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_, **__: functions)


@pytest.mark.parametrize("contract", SEPARATE.values(), ids=SEPARATE)
@pytest.mark.parametrize("views", [1, 2])
@torch.no_grad()
def test_flash_attention_reads_what_the_mask_shows(contract, views, flash_attn):
    model, layout = make_model(VOCAB, initializer_range=0.1), noised_layout(texts(views), contract)
    assert len(layout.token_ids) > 1 and (layout.text < 0).any()
    expected = run(model, layout)
    model.config._attn_implementation = attention.FLASH
    assert_close(run(model, layout), expected, rtol=0, atol=2e-6)


@torch.no_grad()
def test_flash_attention_reads_a_text_that_is_being_decoded(flash_attn):
    model, valid = make_model(VOCAB, initializer_range=0.1), torch.ones((2, 9), dtype=torch.bool)
    token_ids = torch.arange(18).view(2, 9)
    valid[0, 6:] = False
    token_ids[:, 4:6] = MASK
    layout = text_layout(token_ids, valid, token_ids == MASK, WHOLE)
    expected = run(model, layout)
    model.config._attn_implementation = attention.FLASH
    assert_close(run(model, layout), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("contract", MASKED.values(), ids=MASKED)
def test_flash_attention_is_refused_where_a_mask_is_needed(contract, flash_attn):
    model = make_model(VOCAB)
    with pytest.raises(ValueError, match=r"^set_attention: flash_attention_2 takes no mask.*sdpa"):
        set_attention(model, contract, torch.device("cpu"), attention.FLASH)
    model.config._attn_implementation = attention.FLASH
    with pytest.raises(ValueError, match=r"^run: flash_attention_2 takes no mask"):
        run(model, noised_layout(texts(), contract))


@pytest.mark.parametrize("name", ["sdpa", attention.FLASH])
def test_layers_of_another_kind_are_refused(name, flash_attn):
    model = make_model(VOCAB)
    model.config._attn_implementation = name
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ValueError, match=r"^run: layers must be full or sliding .*linear_attention"):
        run(model, noised_layout(texts(), AUTOREGRESSIVE))


def test_an_attention_that_is_not_installed_is_an_error_of_one_line():
    rule = r"^set_attention: flash_attention_2 cannot be used .*sdpa\.$"
    with pytest.raises(ValueError, match=rule) as raised:
        set_attention(make_model(VOCAB), WHOLE, torch.device("cpu"), attention.FLASH)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "flash_attention_2"),
        ({"device": "cpu"}, "sdpa"),
        ({"installed": False}, "flex_attention"),
        ({"dtype": torch.float32}, "flex_attention"),
        ({"contract": MASKED["blocks"]}, "flex_attention"),
        ({"contract": MASKED["blocks"], "attention_dropout": 0.1}, "sdpa"),
        ({"contract": MASKED["blocks"], "head_dim": 8}, "sdpa"),
        ({"name": "sdpa"}, "sdpa"),
    ],
)
def test_a_model_gets_the_fastest_attention_that_fits(changes, expected, monkeypatch):
    case = {
        "device": "cuda",
        "installed": True,
        "dtype": torch.bfloat16,
        "contract": WHOLE,
        "attention_dropout": 0.0,
        "head_dim": 32,
        "name": None,
    } | changes
    config = make_model(VOCAB).config
    config.attention_dropout, config.head_dim = case["attention_dropout"], case["head_dim"]
    chosen = []
    network = SimpleNamespace(
        config=config,
        dtype=case["dtype"],
        _supports_flash_attn=True,
        _supports_flex_attn=True,
        set_attn_implementation=chosen.append,
    )
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: case["installed"])
    set_attention(network, case["contract"], torch.device(case["device"]), case["name"])
    assert chosen == [expected]
