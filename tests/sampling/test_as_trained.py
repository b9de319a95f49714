"""Generation shows the model what training showed it: where the blocks lie, and how a text ends."""

from __future__ import annotations

import pytest
import torch

from tests.chat import examples_of
from tests.sampling.scripted import Call, ScriptedModel
from tests.tiny import make_model, make_tokenizer
from tide import generate
from tide.config import MaskingConfig
from tide.contract import Contract
from tide.data import Collator, TextRow
from tide.layouts import noised_layout
from tide.masking import Noiser
from tide.methods import METHODS
from tide.models import output_head, run

MASK, BLOCK = 1, 4


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes only, so that a text of n ASCII characters is n tokens."""
    return make_tokenizer(258)


def noised_at(rows: list[TextRow], tokenizer, *, times: list[float], seed: int = 0):
    """The student's side of `rows` as training noises it at the given times."""
    examples = examples_of(rows, tokenizer, max_length=32, block_size=BLOCK)
    batch = Collator(student_pad_id=0, pad_to_multiple_of=BLOCK)(examples)
    noiser = Noiser(MaskingConfig(), METHODS["none"], Contract(MASK, BLOCK))
    return noiser(batch, torch.Generator().manual_seed(seed), torch.tensor(times)).student


def rows_of(model, noised):
    return run(model, noised_layout(noised, Contract(MASK, BLOCK)))


@pytest.mark.parametrize("num_prompt", [0, 2, 4, 5])
@pytest.mark.parametrize("num_completion", [1, 2, 3, 4, 7])
def test_the_open_block_is_read_as_in_training(tokenizer, num_prompt, num_completion):
    """Everything masked: a token of the block sees as many tokens, at the same places, in both."""
    row = TextRow("p" * num_prompt, "c" * num_completion)
    noised = noised_at([row], tokenizer, times=[1.0])
    length = noised.token_ids.shape[1]
    model = ScriptedModel(258, noised.token_ids[0].tolist() + [0] * 16)

    layout = noised_layout(noised, Contract(MASK, BLOCK))
    run(model, layout)
    trained = model.calls.pop()
    assert generate(model, tokenizer, [row.prompt], max_new_tokens=16, block_size=BLOCK) == [row.completion]
    assert model.calls[-1].input_ids.shape[1] == length  # The last block of training is the last one opened.

    def seen_from(call: Call, column: int) -> list[tuple[int, int]]:
        seen = call.mask[0, column]
        return sorted(zip(call.positions[0, seen].tolist(), call.input_ids[0, seen].tolist(), strict=True))

    for start in range(num_prompt // BLOCK * BLOCK, length, BLOCK):
        opened = next(call for call in model.calls if call.input_ids.shape[1] == start + BLOCK)
        for position in range(start, start + BLOCK):
            noisy = (layout.segment == 1) & (layout.positions == position)
            assert seen_from(opened, position) == seen_from(trained, int(noisy[0].nonzero()))


def test_a_model_trained_on_two_texts_ends_them_where_they_end(tokenizer):
    """One ends inside a block, the other on its edge, with a block of end-of-text to come."""
    rows = [TextRow("a", "bcdef"), TextRow("xyz", "wvuts")]
    model = make_model(258, initializer_range=0.05).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(60):
        times = torch.linspace(0.2, 1.0, 8).roll(step).tolist()
        noised = noised_at(rows * 4, tokenizer, times=times, seed=step)
        logits = output_head(model).logits(rows_of(model, noised))
        torch.nn.functional.cross_entropy(logits, noised.labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    prompts, completions = [row.prompt for row in rows], [row.completion for row in rows]
    assert generate(model.eval(), tokenizer, prompts, max_new_tokens=20, block_size=BLOCK) == completions
