"""Draws at a temperature: their distribution, the confidence beside them, and what they depend on."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from tests.sampling.scripted import ScriptedModel
from tests.sampling.test_generate import PROMPTS, filled
from tests.tiny import make_model, make_tokenizer
from tide import generate


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes only, so that a text of n ASCII characters is n tokens."""
    return make_tokenizer(258)


def distributed(tokenizer, rows: list[dict[str, float]]) -> ScriptedModel:
    """At position p the model gives the characters of rows[p] these probabilities."""
    model = ScriptedModel(258, [0] * len(rows))
    model.logits.fill_(-1e4)
    for logits, row in zip(model.logits, rows, strict=True):
        for character, probability in row.items():
            (token,) = tokenizer(character)["input_ids"]
            logits[token] = torch.tensor(probability).log() + 7  # logits need not be normalised
    return model


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_tempered_distribution(tokenizer, temperature):
    p = {"a": 0.6, "b": 0.3, "c": 0.1}
    model, total = distributed(tokenizer, [p] * 256), sum(value ** (1 / temperature) for value in p.values())
    # One step: with more, the surest proposals of each are kept, and the others drawn again.
    options = {"max_new_tokens": 256, "block_size": 128, "steps_per_block": 1, "temperature": temperature}
    texts = generate(model, tokenizer, [""] * 16, **options)
    count, num_drawn = Counter("".join(texts)), 16 * 256
    assert count.keys() == p.keys() and count.total() == num_drawn
    for character, value in p.items():
        expected = value ** (1 / temperature) / total
        standard_error = (expected * (1 - expected) / num_drawn) ** 0.5
        assert abs(count[character] / num_drawn - expected) < 4 * standard_error
    assert len({text[start : start + 128] for text in texts for start in (0, 128)}) == 32  # none repeated


def test_confidence_is_the_probability_without_noise_and_temperature(tokenizer):
    """Position p chooses among equals, so that its confidence is known whichever it draws."""
    sizes = [6, 2, 5, 1, 4, 3, 8, 7]
    model = distributed(tokenizer, [dict.fromkeys("abcdefgh"[:size], 1 / size) for size in sizes * 2])
    generate(model, tokenizer, [""], max_new_tokens=9, block_size=8, temperature=3.0)
    assert filled(model)[:8] == [[position] for position in sorted(range(8), key=lambda at: sizes[at])]


def test_the_draws_of_a_prompt_depend_on_seed_and_place_alone(tokenizer):
    model = make_model(258, seed=4, initializer_range=0.1).double()
    options = {"max_new_tokens": 13, "block_size": 4, "steps_per_block": 3, "temperature": 1.0}
    together = generate(model, tokenizer, PROMPTS, **options, seed=7)
    state = torch.get_rng_state()
    for place in (0, 3, 6):
        others = ["a longer text than the others " * 2] * place
        alone = generate(model, tokenizer, [*others, PROMPTS[place]], **options, seed=7)
        assert alone[place] == together[place]
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(generate(model, tokenizer, ["x"] * 3, **options, seed=7))) == 3
    other_seed = generate(model, tokenizer, PROMPTS, **options, seed=8)
    assert all(one != other for one, other in zip(together, other_seed, strict=True))
