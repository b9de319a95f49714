"""Rows of a random model: what they see, and what they must not see."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from tests.batches import STUDENT_MASK as MASK
from tests.batches import noised_tokens, random_masked
from tests.tiny import make_model
from tide.batch import NoisedTokens
from tide.contract import Contract
from tide.layouts import noised_layout, text_layout
from tide.models import output_head, run

VOCAB, BLOCK, LENGTH = MASK + 1, 4, 10  # blocks of 4, 4 and 2


@pytest.fixture(scope="module")
def model():
    return make_model(VOCAB)


def with_token(noised: NoisedTokens, row: int, token_id: int) -> NoisedTokens:
    """The same masks over a text with another token at flat position `row`, in views that show it too."""
    sequence, position = row // noised.token_ids.shape[1], row % noised.token_ids.shape[1]
    token_ids, views = noised.token_ids.clone(), noised.views.clone()
    token_ids[sequence, position] = token_id
    views[sequence, :, position] = torch.where(views[sequence, :, position] == MASK, MASK, token_id)
    return dataclasses.replace(noised, token_ids=token_ids, views=views)


def place(noised: NoisedTokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequence and block of every row."""
    length = noised.token_ids.shape[1]
    return noised.rows // length, noised.rows % length // BLOCK


@torch.no_grad()
def rows_of(model, noised: NoisedTokens, block_size: int = BLOCK) -> torch.Tensor:
    return trained_rows(model, noised, block_size)


def trained_rows(model, noised: NoisedTokens, block_size: int = BLOCK) -> torch.Tensor:
    return run(model, noised_layout(noised, Contract(MASK, block_size)))


def test_rows_are_gathered_from_the_full_forward(model):
    noised = noised_tokens(random_masked(), views=2)
    gathered = rows_of(model, noised)
    every = dataclasses.replace(
        noised,
        rows=torch.arange(3 * LENGTH).repeat_interleave(2),
        row_views=torch.tensor([0, 1]).repeat(3 * LENGTH),
    )
    full = rows_of(model, every).view(3 * LENGTH, 2, -1)
    assert_close(gathered, full[noised.rows, noised.row_views], rtol=0, atol=2e-5)


@pytest.mark.parametrize("views", [1, 2])
def test_the_true_id_of_a_masked_token_reaches_no_row_that_must_predict_it(model, views):
    noised = noised_tokens(random_masked(), views=views)
    before, (sequence, block) = rows_of(model, noised), place(noised)
    reached = 0
    for index, row in enumerate(noised.rows.tolist()):
        other = with_token(noised, row, (int(noised.token_ids.flatten()[row]) + 1) % MASK)
        after = rows_of(model, other)
        assert torch.equal(after[index], before[index])
        changed = (after != before).any(1)
        # It shows in later blocks, which see the clean copy, and in a view that reveals it.
        later = (sequence == sequence[index]) & (block > block[index])
        beside = (
            (sequence == sequence[index])
            & (block == block[index])
            & (noised.row_views != noised.row_views[index])
        )
        assert torch.equal(changed, later | beside)
        reached += int(changed.sum())
    assert reached > 10


def test_a_later_block_reaches_no_earlier_row(model):
    noised = noised_tokens(random_masked(num=1))
    before, (_, block) = rows_of(model, noised), place(noised)
    for first in (4, 8):
        token_ids, views = noised.token_ids.clone(), noised.views.clone()
        token_ids[:, first:] = (token_ids[:, first:] + 1) % MASK
        views[..., first:] = token_ids[:, None, first:]
        after = rows_of(model, dataclasses.replace(noised, token_ids=token_ids, views=views))
        earlier = block < first // BLOCK
        assert earlier.any() and (~earlier).any()
        assert torch.equal(after[earlier], before[earlier])
        assert (after != before)[~earlier].any(1).all()


def test_a_block_is_read_in_both_directions(model):
    masked = torch.zeros((1, 8), dtype=torch.bool)
    masked[0, 4] = masked[0, 7] = True
    noised = noised_tokens(masked)
    before = rows_of(model, noised)
    for shown in (5, 6):  # between the two masked tokens of the second block
        after = rows_of(model, with_token(noised, shown, (int(noised.token_ids[0, shown]) + 1) % MASK))
        assert (after != before).any(1).tolist() == [True, True]
    # And from the masked token at its end to the one at its start.
    views = noised.views.clone()
    views[0, 0, 7] = 5
    after = rows_of(model, dataclasses.replace(noised, views=views))
    assert (after[0] != before[0]).any()


def test_views_that_share_the_clean_text_give_the_rows_of_each_view_alone(model):
    noised = noised_tokens(random_masked(), views=2)
    together = rows_of(model, noised)
    assert set(noised.row_views.tolist()) == {0, 1}
    for view in (0, 1):
        mine = noised.row_views == view
        rows = noised.rows[mine]
        alone = NoisedTokens(
            noised.token_ids, noised.valid, noised.views[:, [view]], rows, torch.zeros_like(rows)
        )
        assert_close(together[mine], rows_of(model, alone), rtol=0, atol=2e-5)


def test_padding_changes_no_row(model):
    noised = noised_tokens(random_masked(length=6) & (torch.arange(6) < 6))
    before = rows_of(model, noised)

    def padded(tensor: torch.Tensor, value: float) -> torch.Tensor:
        return torch.nn.functional.pad(tensor, (0, 6), value=value)

    rows = noised.rows // 6 * 12 + noised.rows % 6
    for pad_id in (0, 17, MASK):
        longer = NoisedTokens(
            padded(noised.token_ids, pad_id),
            padded(noised.valid, False),
            padded(noised.views, pad_id),
            rows,
            noised.row_views,
        )
        # Position 6 and 7 are padding inside the last block of the text.
        assert_close(rows_of(model, longer), before, rtol=0, atol=2e-5)


def test_nothing_masked_gives_no_rows_and_a_connected_graph(model):
    quiet = noised_tokens(torch.zeros((2, 5), dtype=torch.bool))
    rows = trained_rows(model, quiet)
    assert rows.shape == (0, 32) and rows.requires_grad


def test_an_attention_that_would_misread_the_mask_is_an_error():
    """Eager attention adds the mask to the scores: True would be +1, and every token see every other."""
    model = make_model(VOCAB)
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match=r"sdpa or flex_attention; got 'eager'.* attn_implementation='sdpa'"):
        rows_of(model, noised_tokens(random_masked()))


def test_gradients_reach_every_parameter_and_are_finite(model):
    noised = noised_tokens(random_masked(), lengths=(10, 7, 3))
    trained = make_model(VOCAB)
    trained_rows(trained, noised).square().sum().backward()
    for name, parameter in trained.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_decoding_states_are_the_noised_rows_of_the_last_block(model):
    """What generation asks for is what training taught: blocks before clean, the last one noised."""
    masked = torch.zeros((2, LENGTH), dtype=torch.bool)
    masked[:, 5:7] = True
    noised = noised_tokens(masked, lengths=(7, 7))  # the last block is cut to three
    rows = rows_of(model, noised).view(2, 2, -1)
    ids = torch.cat([noised.token_ids[:, :4], noised.views[:, 0, 4:7], torch.full((2, 3), 5)], dim=1)
    with torch.no_grad():
        valid = torch.arange(LENGTH).expand(2, -1) < 7
        states = run(model, text_layout(ids, valid, masked, Contract(MASK, BLOCK))).view(2, 2, -1)
    assert_close(states, rows, rtol=0, atol=2e-5)


def test_the_head_is_the_output_embedding_tied_or_not():
    tied, untied = make_model(VOCAB), make_model(VOCAB, tie_word_embeddings=False)
    assert output_head(tied).weight is tied.model.embed_tokens.weight
    assert output_head(untied).weight is untied.lm_head.weight
    assert not torch.equal(untied.lm_head.weight, untied.model.embed_tokens.weight)
    assert output_head(tied).bias is None
    untied.lm_head.bias = torch.nn.Parameter(torch.arange(VOCAB).float())
    noised = noised_tokens(random_masked())
    hidden, head = rows_of(untied, noised), output_head(untied)
    with torch.no_grad():
        assert torch.equal(head.logits(hidden), untied.lm_head(hidden))


def test_the_head_scales_and_caps_logits_as_the_configuration_says():
    model = make_model(VOCAB)
    assert output_head(model)[2:] == (1.0, None)
    model.config.logit_scale, model.config.final_logit_softcapping = 0.5, 3.0
    hidden = 4 * torch.ones(2, 32)
    head = output_head(model)
    plain = hidden @ head.weight.T
    assert_close(head.logits(hidden), 3 * torch.tanh(0.5 * plain / 3))
