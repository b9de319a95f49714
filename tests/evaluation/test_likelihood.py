"""Held-out likelihood against a plain computation, row by row in fp64, and the bound against all masks."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedConfig

from tests.chat import examples_of
from tests.tiny import ROWS, make_model
from tide.alignment import ByteTable
from tide.batch import Example, TokenSequence
from tide.contract import AUTOREGRESSIVE, Contract
from tide.data import Collator
from tide.evaluation import TIMES, held_out_likelihood, likelihood
from tide.evaluation.likelihood import _bound
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


@torch.no_grad()
def exact_bound(model, tokenizer, examples) -> float:
    """Nats per byte over every set of masked tokens of every block, ends included."""
    table, nats, num_bytes = ByteTable.from_tokenizer(tokenizer), 0.0, 0
    for example in examples:
        ids, loss_mask = example.student.token_ids, example.student.loss_mask
        num_bytes += sum(len(table.tokens[int(token)]) for token in ids[loss_mask])
        for start in range(0, len(ids), BLOCK):
            end = min(start + BLOCK, len(ids))
            tokens = [p for p in range(start, end) if loss_mask[p]]
            sets = [s for m in range(1, len(tokens) + 1) for s in itertools.combinations(tokens, m)]
            if not sets:
                continue
            noised = ids[:end].repeat(len(sets), 1)
            for row, masked in enumerate(sets):
                noised[row, list(masked)] = MASK
            block = torch.arange(end) // BLOCK
            bias = torch.where(block[:, None] >= block, 0.0, -torch.inf).double()[None, None]
            log_p = model.network(input_ids=noised, attention_mask=bias).logits.log_softmax(-1)
            for row, masked in enumerate(sets):
                loss = -sum(float(log_p[row, p, ids[p]]) for p in masked)
                times = len(tokens) * math.comb(len(tokens), len(masked))
                nats += len(tokens) / len(masked) * loss / times
    return nats / num_bytes


def test_the_bound_is_that_of_every_set_of_masked_tokens(word_tokenizer, examples):
    model = with_contract(make_model(300, seed=5, initializer_range=0.5).double())
    texts = sorted(examples, key=lambda example: len(example.student.token_ids))[:4]
    exact = exact_bound(model, word_tokenizer, texts)
    errors = []
    for seed in range(6):
        bound = held_out_likelihood(model, word_tokenizer, texts, times=(), strata=32, seed=seed).bound
        assert bound.mask_error < 0.03 * exact and bound.mask_error < bound.standard_error
        errors.append((bound.nats_per_byte - exact) / bound.mask_error)
    assert 0.1 < max(map(abs, errors)) < 3  # neither the exact sum nor another one


def test_the_standard_error_is_that_of_a_ratio_over_texts():
    nats = torch.tensor([[1.0, 3.0], [6.0, 2.0], [5.0, 7.0]]).double()
    bound = _bound(nats, torch.tensor([2.0, 3.0, 5.0]).double())
    assert bound.nats_per_byte == pytest.approx(12 / 10)
    residuals = (2 - 2 * 1.2, 4 - 3 * 1.2, 6 - 5 * 1.2)
    assert bound.standard_error == pytest.approx(math.sqrt(1.5 * sum(r * r for r in residuals)) / 10)
    assert bound.mask_error == pytest.approx(math.sqrt((2 + 8 + 2) / 2) / 10)


def test_one_text_has_no_standard_error(model, word_tokenizer, examples):
    bound = held_out_likelihood(model, word_tokenizer, examples[:1]).bound
    assert bound.standard_error is None and bound.mask_error > 0
    assert str(bound) == f"{bound.nats_per_byte:.4f}"


def test_rows_are_scored_in_blocks_without_dropout(model, word_tokenizer, examples, monkeypatch):
    expected = held_out_likelihood(model, word_tokenizer, examples)
    network = make_model(300, seed=5).double().train()
    network.config.attention_dropout = 0.5
    for layer in network.model.layers:
        layer.self_attn.attention_dropout = 0.5
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 7 * 300)
    found = held_out_likelihood(with_contract(network), word_tokenizer, examples)
    assert found.bound.nats_per_byte == pytest.approx(expected.bound.nats_per_byte, rel=1e-12)
    assert found.accuracy == expected.accuracy and network.training


def test_an_autoregressive_model_is_exact(word_tokenizer, examples):
    model = make_model(300, seed=5).double()
    found = held_out_likelihood(DiffusionModel(model, AUTOREGRESSIVE), word_tokenizer, examples, batch_size=3)
    table, nats, num_bytes = ByteTable.from_tokenizer(word_tokenizer), 0.0, 0
    for example in examples:
        ids, loss_mask = example.student.token_ids, example.student.loss_mask
        read = loss_mask & (torch.arange(len(ids)) > 0)  # nothing predicts the first token
        with torch.no_grad():
            log_p = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        nats -= sum(float(log_p[p - 1, ids[p]]) for p in read.nonzero().flatten().tolist())
        num_bytes += sum(len(table.tokens[int(token)]) for token in ids[read])
    assert found.bound.nats_per_byte == pytest.approx(nats / num_bytes, rel=1e-6)
    assert found.bound.mask_error == 0 and found.nats_per_byte == found.accuracy == {}


class Perfect(torch.nn.Module):
    """Knows that a text is one letter, a or b, twice: as one token or two, each of even odds."""

    def __init__(self, answers: list[int]) -> None:
        super().__init__()
        self.answers = torch.tensor(answers)
        self.head = torch.nn.Linear(300, 300, bias=False)
        torch.nn.init.eye_(self.head.weight)
        self.config = PreTrainedConfig(attn_implementation="sdpa")
        self.device = torch.device("cpu")

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.head

    @property
    def base_model(self) -> Perfect:
        return self

    def forward(self, input_ids, position_ids, attention_mask, use_cache) -> SimpleNamespace:
        seen = (input_ids[..., None] == self.answers).any(1, keepdim=True).float()  # [R, 1, 2]
        even = (seen.sum(-1, keepdim=True) == 0).float()
        logits = torch.full((*input_ids.shape, 300), -1e4)
        logits[..., self.answers] = 1e3 * (seen + even)
        return SimpleNamespace(last_hidden_state=logits)


def test_perfect_models_over_words_and_over_bytes_have_one_bound(word_tokenizer):
    letters = [word_tokenizer(letter)["input_ids"][0] for letter in "ab"]
    words = {len(ByteTable.from_tokenizer(word_tokenizer).tokens[i]): i for i in range(2, 300)}
    found = {}
    for name, answers, number in (("bytes", letters, 2), ("words", [words[2], 299], 1)):
        ids, mask = torch.tensor([answers[0]] * number), torch.ones(number, dtype=torch.bool)
        text = TokenSequence(ids, mask, torch.full((number,), -1))
        model = DiffusionModel(Perfect(answers), Contract(MASK, None))
        found[name] = held_out_likelihood(model, word_tokenizer, [Example(text)] * 64, strata=2)
    assert found["words"].bound.nats_per_byte == pytest.approx(math.log(2) / 2, rel=1e-6)
    assert found["bytes"].bound.nats_per_byte == pytest.approx(math.log(2) / 2, rel=1e-6)
    # At one t they differ.
    assert found["bytes"].nats_per_byte[0.75] > 1.2 * found["words"].nats_per_byte[0.75]
