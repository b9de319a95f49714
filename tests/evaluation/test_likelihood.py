"""Held-out likelihood against a plain computation, row by row in fp64."""

from __future__ import annotations

import math

import pytest
import torch

from tests.chat import examples_of
from tests.tiny import ROWS, make_model
from tide.alignment import ByteTable
from tide.batch import Example, TokenSequence
from tide.contract import Contract
from tide.data import Collator
from tide.evaluation import TIMES, held_out_likelihood
from tide.masking import keyed_generator, one_view
from tide.models import DiffusionModel

END, MASK, BLOCK = 0, 1, 8


def with_contract(network) -> DiffusionModel:
    return DiffusionModel(network, Contract(MASK, BLOCK))


@pytest.fixture(scope="module")
def examples(word_tokenizer):
    return examples_of(ROWS, word_tokenizer, max_length=64, block_size=BLOCK)


@pytest.fixture(scope="module")
def model():
    return with_contract(make_model(300, seed=5).double())


@torch.no_grad()
def plain_likelihood(model, tokenizer, examples, *, time: float, seed: int):
    """Nats, hits, tokens and bytes of the masked tokens: one forward for each, without padding."""
    table = ByteTable.from_tokenizer(tokenizer)
    nats, hits, tokens, num_bytes = 0.0, 0, 0, 0
    for number, example in enumerate(examples):
        batch = Collator(student_pad_id=3)([example]).student
        noise = torch.rand(batch.token_ids.shape[1], generator=keyed_generator(seed, number))
        masked = (noise < time) & batch.loss_mask
        noised = one_view(batch, masked, MASK)
        length = batch.token_ids.shape[1]
        for row in noised.rows.tolist():
            sequence, position = row // length, row % length
            label = int(noised.token_ids[sequence, position])
            if label == END:
                continue
            start = position // BLOCK * BLOCK
            end = min(start + BLOCK, int(noised.valid[sequence].sum()))
            ids = torch.cat([noised.token_ids[sequence, :start], noised.views[sequence, 0, start:end]])
            block = torch.arange(end) // BLOCK
            bias = torch.where(block[:, None] >= block, 0.0, -torch.inf).double()[None, None]
            logits = model.network(input_ids=ids[None], attention_mask=bias).logits
            log_p = logits[0, position].log_softmax(-1)
            nats -= float(log_p[label])
            hits += int(log_p.argmax()) == label
            tokens += 1
            num_bytes += len(table.tokens[label])
    return nats, hits, tokens, num_bytes


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_nats_per_byte_and_accuracy_are_those_of_a_plain_loop(model, word_tokenizer, examples, batch_size):
    times = (0.3, 0.8)
    found = held_out_likelihood(model, word_tokenizer, examples, times=times, batch_size=batch_size, seed=7)
    plain = {time: plain_likelihood(model, word_tokenizer, examples, time=time, seed=7) for time in times}
    assert set(found.nats_per_byte) == set(found.accuracy) == set(times)
    for time, (nats, hits, tokens, num_bytes) in plain.items():
        assert found.nats_per_byte[time] == pytest.approx(nats / num_bytes, rel=1e-6)
        assert found.accuracy[time] == pytest.approx(hits / tokens, abs=1e-12)
    assert found.num_tokens == sum(tokens for _, _, tokens, _ in plain.values())
    assert found.num_bytes == sum(num_bytes for *_, num_bytes in plain.values())


def test_everything_masked_counts_each_byte_of_the_completions_and_no_end_of_text(
    model, word_tokenizer, examples
):
    found = held_out_likelihood(model, word_tokenizer, examples, times=(1.0,))
    assert found.num_bytes == sum(len(row.completion.encode()) for row in ROWS)
    text = [example.student.loss_mask & (example.student.token_ids != END) for example in examples]
    assert found.num_tokens == sum(int(row.sum()) for row in text)
    ends = [int((example.student.token_ids == END).sum()) for example in examples]
    assert min(ends) > 0 and max(ends) > 1  # there was something to leave out, more than once in a text


def test_a_uniform_model_needs_the_logarithm_of_the_vocabulary_per_token(word_tokenizer, examples):
    uniform = make_model(300, tie_word_embeddings=False)
    torch.nn.init.zeros_(uniform.lm_head.weight)
    found = held_out_likelihood(with_contract(uniform), word_tokenizer, examples, times=(1.0,))
    expected = math.log(300) * found.num_tokens / found.num_bytes
    assert found.nats_per_byte[1.0] == pytest.approx(expected, rel=1e-6)


def test_a_model_that_knows_the_token_is_right_every_time(word_tokenizer):
    """One token throughout, and a head that answers it: accuracy 1, likelihood that of the answer."""
    letter = word_tokenizer("x")["input_ids"][0]
    sequence = TokenSequence(
        torch.tensor([letter] * 11 + [END]), torch.ones(12, dtype=torch.bool), torch.full((12,), -1)
    )
    sure = make_model(300, tie_word_embeddings=False)
    torch.nn.init.zeros_(sure.lm_head.weight)
    sure.lm_head.bias = torch.nn.Parameter(torch.nn.functional.one_hot(torch.tensor(letter), 300) * 5.0)
    found = held_out_likelihood(with_contract(sure), word_tokenizer, [Example(sequence)], times=(0.5, 1.0))
    assert found.accuracy == {0.5: 1.0, 1.0: 1.0}
    expected = math.log(math.exp(5) + 299) - 5
    assert found.nats_per_byte == pytest.approx({0.5: expected, 1.0: expected}, rel=1e-5)


def test_masks_of_an_example_grow_with_time(model, word_tokenizer, examples):
    counts = [
        held_out_likelihood(model, word_tokenizer, examples, times=times).num_tokens
        for times in ((0.2,), (0.6,), (0.2, 0.6))
    ]
    assert counts[0] < counts[1] and counts[2] == counts[0] + counts[1]


def test_masks_come_from_the_seed_and_the_teachers_side_is_not_read(
    model, word_tokenizer, line_tokenizer, examples
):
    options = {"batch_size": 3}
    first = held_out_likelihood(model, word_tokenizer, examples, **options)
    assert tuple(first.nats_per_byte) == TIMES
    assert held_out_likelihood(model, word_tokenizer, examples, **options) == first
    cross = examples_of(
        ROWS, word_tokenizer, line_tokenizer, max_length=64, teacher_max_length=64, block_size=BLOCK
    )
    assert held_out_likelihood(model, word_tokenizer, cross, **options) == first
    assert held_out_likelihood(model, word_tokenizer, examples, seed=1, **options) != first


def test_nothing_masked_is_zero_not_nan(model, word_tokenizer, examples):
    found = held_out_likelihood(model, word_tokenizer, examples, times=(1e-9,))
    assert (found.num_tokens, found.num_bytes) == (0, 0)
    assert found.nats_per_byte == {1e-9: 0.0} and found.accuracy == {1e-9: 0.0}


def test_the_model_gets_no_gradient(word_tokenizer, examples):
    trained = make_model(300).train()
    held_out_likelihood(with_contract(trained), word_tokenizer, examples, times=(0.5,))
    assert trained.training and all(parameter.grad is None for parameter in trained.parameters())
