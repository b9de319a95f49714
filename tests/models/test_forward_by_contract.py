"""Hidden rows of packed, ragged layouts are those of each contract's definition, and their gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention
from torch.testing import assert_close
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, MistralConfig, MistralForCausalLM
from transformers.integrations import flex_attention as flex

from tests.batches import STUDENT_MASK as MASK
from tests.batches import noised_tokens
from tests.layouts.plain import CONTRACTS, noised_texts, plain_rows
from tests.tiny import make_model
from tide.contract import AUTOREGRESSIVE, Contract
from tide.layouts import noised_layout
from tide.models import output_head, run

VOCAB = MASK + 1


def texts(num: int = 5, length: int = 23, *, views: int = 1):
    """Of 3 to 23 tokens, so that some share a row; the first token is shown."""
    masked = torch.rand((num, length), generator=torch.Generator().manual_seed(1)) < 0.4
    masked[:, 0] = False
    return noised_tokens(masked, views=views, lengths=(23, 9, 13, 3, 17))


def make_exact():
    """In fp64 throughout: the norms of transformers compute in fp32."""
    model = make_model(VOCAB).double()
    for name, module in list(model.named_modules()):
        if "RMSNorm" in type(module).__name__:
            norm = torch.nn.RMSNorm(module.weight.shape, eps=module.variance_epsilon)
            norm.weight = module.weight
            model.set_submodule(name, norm)
    return model


@pytest.fixture(scope="module")
def double():
    return make_exact()


@given(
    noised=noised_texts(),
    contract=st.one_of(
        st.sampled_from(list(CONTRACTS.values())),
        st.builds(
            Contract,
            mask_id=st.just(MASK),
            block_size=st.integers(1, 12),
            in_block=st.sampled_from(["bidirectional", "observed_first"]),
            shift=st.integers(0, 1),
        ),
    ),
)
@settings(max_examples=50)
@torch.no_grad()
def test_rows_are_those_of_the_definition_in_fp64(double, noised, contract):
    rows = run(double, noised_layout(noised, contract))
    assert_close(rows, plain_rows(double, noised, contract), rtol=0, atol=1e-12)


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
@pytest.mark.parametrize("views", [1, 2])
@torch.no_grad()
def test_rows_are_those_of_the_definition_in_fp32(contract, views):
    model, noised = make_model(VOCAB, initializer_range=0.1), texts(views=views)
    layout = noised_layout(noised, contract)
    assert len(layout.token_ids) < len(noised.token_ids)  # packed
    assert_close(run(model, layout), plain_rows(model, noised, contract), rtol=0, atol=2e-6)


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
@pytest.mark.parametrize("views", [1, 2])
def test_gradients_are_those_of_the_definition(contract, views):
    noised, gradients = texts(views=views), []
    upstream = torch.randn(len(noised.rows), 32, dtype=torch.float64)
    for ragged in (True, False):
        network = make_exact()
        rows = (
            run(network, noised_layout(noised, contract)) if ragged else plain_rows(network, noised, contract)
        )
        (rows * upstream).sum().backward()
        gradients.append([parameter.grad for parameter in network.base_model.parameters()])
    assert_close(*gradients, rtol=0, atol=1e-10)


@torch.no_grad()
def test_the_order_of_texts_and_their_neighbours_change_nothing(double):
    noised, contract = texts(), Contract(MASK, 4)
    together, row = run(double, noised_layout(noised, contract)), 0
    for text in range(len(noised.token_ids)):
        alone = noised_tokens((noised.views[[text], 0] == MASK) & noised.valid[[text]])
        alone = type(alone)(
            noised.token_ids[[text]], noised.valid[[text]], noised.views[[text]], alone.rows, alone.row_views
        )
        rows = run(double, noised_layout(alone, contract))
        assert_close(together[row : row + len(rows)], rows, rtol=0, atol=1e-12)
        row += len(rows)
    assert row == len(together)


SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
    "sliding_window": 4,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 0,
}
SLIDING = {
    "some layers": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SIZES,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            query_pre_attn_scalar=8,
        )
    ),
    "all layers": lambda: MistralForCausalLM(MistralConfig(**SIZES)),
}


@pytest.mark.parametrize("make", SLIDING.values(), ids=SLIDING)
@torch.no_grad()
def test_an_autoregressive_model_with_sliding_windows_reads_as_it_does_alone(make):
    network, noised = make().eval().double(), texts()
    logits = output_head(network).logits(run(network, noised_layout(noised, AUTOREGRESSIVE)))
    for index, row in enumerate(noised.rows.tolist()):
        text, token = divmod(row, noised.token_ids.shape[1])
        expected = network(input_ids=noised.token_ids[[text], :token]).logits[0, -1]
        assert_close(logits[index], expected, rtol=0, atol=1e-10)
    # The window matters: without one, the model says something else.
    network.config.sliding_window = 100
    wide = output_head(network).logits(run(network, noised_layout(noised, AUTOREGRESSIVE)))
    assert not torch.allclose(wide, logits, atol=1e-3)


def plain_flex_attention(query, key, value, training=False, **arguments):
    return flex_attention(query, key, value, **arguments)


def test_layers_that_take_no_mask_are_an_error():
    model = make_model(VOCAB)
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ValueError, match=r"run: .*full or sliding.* \['linear_attention'\]"):
        run(model, noised_layout(texts(), Contract(MASK, 4)))


@pytest.mark.parametrize(
    ("name", "compiled"),
    [*((name, False) for name in CONTRACTS), pytest.param("observed first", True, marks=pytest.mark.slow)],
)
@torch.no_grad()
def test_flex_attention_reads_the_same_mask(name, compiled, monkeypatch):
    if compiled:
        torch.compiler.reset()  # torch 2.13 compiles dynamic shapes for a CPU to C++ that does not build
    else:
        monkeypatch.setattr(flex, "compile_friendly_flex_attention", plain_flex_attention)
    model, layout = make_model(VOCAB, initializer_range=0.05), noised_layout(texts(), CONTRACTS[name])
    dense = run(model, layout)
    model.set_attn_implementation("flex_attention")
    assert_close(run(model, layout), dense, rtol=0, atol=1e-6)
