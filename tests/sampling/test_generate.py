"""Generation: a scripted model for what is asked of a model, random ones for what their answers become."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.sampling.scripted import ScriptedModel
from tests.tiny import make_model, make_tokenizer
from tide import generate
from tide.sampling.block_sampler import _decode

END, MASK = 0, 1


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes only, so that a text of n ASCII characters is n tokens."""
    return make_tokenizer(258)


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def scripted(tokenizer, text: str, confidence=None, **options) -> ScriptedModel:
    return ScriptedModel(258, ids(tokenizer, text), confidence, **options)


def filled(model: ScriptedModel, sequence: int = 0) -> list[list[int]]:
    """Positions that each step filled, read off the masks of successive calls; the last step is not seen."""
    masks = [
        {p for p, token in enumerate(call.input_ids[sequence].tolist()) if token == MASK}
        | set(range(call.input_ids.shape[1], 100))
        for call in model.calls
    ]
    return [sorted(before - after) for before, after in pairwise(masks)]


TEXT = "the quick brown fox jumps over"


def test_one_token_a_step_surest_first_block_by_block(tokenizer):
    # A prompt of three, the rest of its block, a second, and a third of which two tokens are returned.
    confidence = [*[9.0] * 3, 1.0, *[2.0, 4.0, 3.0, 5.0], *[3.0, 9.0, 1.0, 2.0]]
    model = scripted(tokenizer, TEXT[:12], confidence)
    assert generate(model, tokenizer, [TEXT[:3]], max_new_tokens=7, block_size=4) == [TEXT[3:10]]
    assert filled(model) == [[3], [7], [5], [6], [4], [9], [8], [11]]
    # Every call reads the text to the end of the open block, positions from 0, under the block-causal mask.
    assert [call.input_ids.shape for call in model.calls] == [(1, 4)] + [(1, 8)] * 4 + [(1, 12)] * 4
    for call in model.calls:
        length = call.input_ids.shape[1]
        assert call.positions.tolist() == [list(range(length))]
        block = torch.arange(length) // 4
        assert torch.equal(call.mask[0], block[:, None] >= block)


@pytest.mark.parametrize(
    ("steps", "taken"), [(1, [[4, 5, 6, 7, 8]]), (2, [[4, 6, 8], [5, 7]]), (3, [[6, 8], [4, 7], [5]])]
)
def test_fewer_steps_fill_several_tokens_at_once(tokenizer, steps, taken):
    confidence = [1.0] * 4 + [3.0, 1.0, 5.0, 2.0, 4.0] + [1.0] * 9
    model = scripted(tokenizer, TEXT[:18], confidence)
    # The second block, of which one token is returned, makes the last step of the first visible.
    answer = generate(model, tokenizer, [TEXT[:4]], max_new_tokens=6, block_size=9, steps_per_block=steps)
    assert answer == [TEXT[4:10]]
    assert filled(model)[:steps] == taken
    assert len(model.calls) == 2 * steps


@pytest.mark.parametrize("num_prompt", [0, 1, 3, 4, 5, 8])
@pytest.mark.parametrize("max_new_tokens", [1, 3, 4, 9])
def test_prompts_that_end_in_or_at_the_edge_of_a_block(tokenizer, num_prompt, max_new_tokens):
    model = scripted(tokenizer, TEXT)
    (answer,) = generate(model, tokenizer, [TEXT[:num_prompt]], max_new_tokens=max_new_tokens, block_size=4)
    assert answer == TEXT[num_prompt : num_prompt + max_new_tokens]
    # Blocks are opened whole, one token a step; no step finds nothing to do.
    end = -(-(num_prompt + max_new_tokens) // 4) * 4
    assert len(model.calls) == end - num_prompt
    assert {call.input_ids.shape[1] for call in model.calls} == set(
        range(num_prompt // 4 * 4 + 4, end + 1, 4)
    )


def test_generation_ends_with_the_block_that_holds_the_end_of_text(tokenizer):
    script = [*ids(tokenizer, "abcdef"), END, *ids(tokenizer, "ghijklmnop")]
    model = ScriptedModel(258, script)
    assert generate(model, tokenizer, ["ab"], max_new_tokens=12, block_size=4) == ["cdef"]
    assert max(call.input_ids.shape[1] for call in model.calls) == 8
    assert len(model.calls) == 6


def test_an_end_of_text_in_the_prompt_ends_nothing(tokenizer):
    prompt = "a" + tokenizer.eos_token + "b"
    model = scripted(tokenizer, "a" + "-" + "bcdefgh")
    assert generate(model, tokenizer, [prompt], max_new_tokens=5, block_size=4) == ["cdefg"]


def test_without_an_end_of_text_token_every_token_is_text(tokenizer):
    endless = make_tokenizer(258, end=None)
    model = scripted(tokenizer, TEXT)
    assert generate(model, endless, ["", TEXT[:2]], max_new_tokens=5, block_size=4) == [TEXT[:5], TEXT[2:7]]


def test_the_mask_token_is_never_proposed(tokenizer):
    model = scripted(tokenizer, TEXT, favourite=MASK)
    assert generate(model, tokenizer, [TEXT[:3]], max_new_tokens=8, block_size=4) == [TEXT[3:11]]


def of_marked_words() -> PreTrainedTokenizerFast:
    """Words that carry the space before them as a mark; id 3 is a hole."""
    vocab = {"<end>": 0, "<mask>": 1, "\u2581": 2, "a": 4, "b": 5, "\u2581a": 6, "\u2581b": 7}
    words = Tokenizer(models.BPE(vocab, [("\u2581", "a"), ("\u2581", "b")]))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    words.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", mask_token="<mask>")


@pytest.mark.parametrize("favourite", [3, 8, 11])
def test_ids_without_a_token_are_never_proposed(favourite):
    """A hole of the vocabulary, and the entries of a padded head."""
    model = ScriptedModel(12, [7] * 8, favourite=favourite)
    assert generate(model, of_marked_words(), ["a"], max_new_tokens=3, block_size=4) == [" b b b"]


def test_a_completion_keeps_the_space_that_begins_it_and_a_text_does_not():
    model = ScriptedModel(8, [7] * 8)
    answers = generate(model, of_marked_words(), ["a", ""], max_new_tokens=3, block_size=4)
    assert answers == [" b b b", "b b b"]


def test_a_character_that_the_prompt_begins_is_in_the_completion(tokenizer):
    assert _decode(tokenizer, ids(tokenizer, "né")[:-1], ids(tokenizer, "é!")[1:]) == "é!"


def test_a_prompt_that_is_no_utf8_is_named(tokenizer):
    prompt = b"caf\xe9".decode(errors="surrogateescape")
    with pytest.raises(ValueError, match=r"^generate: prompts must be valid UTF-8; .* as prompt 2\."):
        generate(scripted(tokenizer, TEXT), tokenizer, ["é", prompt])


def test_finished_sequences_are_not_run_again(tokenizer):
    """The short prompt meets the end of text in its first block; the long one starts behind it."""
    script = [*ids(tokenizer, "abc"), END, *ids(tokenizer, "efghijklmnop")]
    model = ScriptedModel(258, script)
    answers = generate(model, tokenizer, ["a", "abcdefg"], max_new_tokens=8, block_size=4)
    assert answers == ["bc", "hijklmno"]
    # Three steps for "bc" and its end; beside them one for "h", whose block is done sooner.
    sizes = [tuple(call.input_ids.shape) for call in model.calls]
    assert sizes == [(2, 8), (1, 4), (1, 4)] + [(1, 12)] * 4 + [(1, 16)] * 4


@torch.no_grad()
def generate_plainly(model, prompt_ids: list[int], *, max_new: int, block_size: int, steps: int) -> list[int]:
    """One sequence, one block after another, each step a full forward over what stands so far."""
    text, end = list(prompt_ids), len(prompt_ids) + max_new
    while len(text) < end:
        start = len(text)
        stop = (start // block_size + 1) * block_size
        text += [MASK] * (stop - start)
        block = torch.arange(stop) // block_size
        bias = torch.where(block[:, None] >= block, 0.0, -torch.inf).to(model.dtype)[None, None]
        for step in range(steps):
            masked = [p for p in range(start, stop) if text[p] == MASK]
            if not masked:
                break
            logits = model(input_ids=torch.tensor([text]), attention_mask=bias).logits[0]
            logits[:, MASK] = -torch.inf
            log_p, proposal = logits.log_softmax(-1).max(-1)
            surest = sorted(masked, key=lambda p: -float(log_p[p]))
            for position in surest[: -(-len(masked) // (steps - step))]:
                text[position] = int(proposal[position])
        if END in text[start:]:
            break
    answer = text[len(prompt_ids) : end]
    return answer[: answer.index(END)] if END in answer else answer


PROMPTS = ["", "def f(", "abcd", "class Node:\n    def", "x", "abcdefgh", "naïve ☕"]


@pytest.mark.parametrize(("block_size", "steps"), [(4, None), (4, 2), (6, 3), (32, 8)])
def test_a_batch_gives_what_a_plain_loop_gives_for_each(tokenizer, block_size, steps):
    model = make_model(258, seed=4, initializer_range=0.5).double()
    options = {"max_new_tokens": 13, "block_size": block_size, "steps_per_block": steps}
    together = generate(model, tokenizer, PROMPTS, **options)
    assert [generate(model, tokenizer, [prompt], **options)[0] for prompt in PROMPTS] == together
    plainly = [
        generate_plainly(
            model, ids(tokenizer, prompt), max_new=13, block_size=block_size, steps=steps or block_size
        )
        for prompt in PROMPTS
    ]
    assert [tokenizer.decode(answer) for answer in plainly] == together
    assert len(set(together)) > 3  # the prompt matters


def test_a_model_that_favours_the_end_of_text_gives_what_the_plain_loop_gives(tokenizer):
    model = make_model(258, seed=4, initializer_range=0.5, tie_word_embeddings=False).double()
    with torch.no_grad():
        model.lm_head.weight[END] *= 1.6
    options = {"max_new_tokens": 17, "block_size": 4}
    together = generate(model, tokenizer, PROMPTS, **options)
    plainly = [generate_plainly(model, ids(tokenizer, p), max_new=17, block_size=4, steps=4) for p in PROMPTS]
    assert [tokenizer.decode(answer) for answer in plainly] == together
    lengths = {len(answer) for answer in plainly}
    assert len(lengths) > 2 and 17 in lengths  # some end early, at different places, and some do not


def test_no_prompts_need_no_model(tokenizer):
    model = scripted(tokenizer, TEXT)
    assert generate(model, tokenizer, []) == []
    assert not model.calls


def test_the_model_gets_no_gradient_and_keeps_its_mode(tokenizer):
    model = make_model(258).train()
    generate(model, tokenizer, ["ab"], max_new_tokens=2, block_size=4)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1; got 0"),
        ({"block_size": 0}, "block_size must be at least 1; got 0"),
        ({"steps_per_block": 0}, "steps_per_block must be at least 1; got 0"),
        ({"max_new_tokens": -3, "block_size": 8}, "max_new_tokens must be at least 1; got -3"),
        ({"temperature": -0.1}, r"temperature must be finite and at least 0; got -0\.1"),
        ({"temperature": float("nan")}, "temperature must be finite and at least 0; got nan"),
        ({"seed": -1}, r"seed must be finite and at least 0; got -1"),
    ],
)
def test_values_out_of_range_are_errors(tokenizer, options, wrong):
    with pytest.raises(ValueError, match=rf"^generate: {wrong}\.$"):
        generate(scripted(tokenizer, TEXT), tokenizer, ["a"], **options)


def test_a_tokenizer_without_a_mask_token_is_an_error(tokenizer):
    maskless = make_tokenizer(258, mask=None)
    with pytest.raises(ValueError, match=r"generate: the tokenizer has no mask token\. Load the one"):
        generate(scripted(tokenizer, TEXT), maskless, ["a"])


@pytest.mark.parametrize("prompt", ["abc", [{"role": "user", "content": "abc"}]])
def test_one_prompt_is_an_error_not_several(tokenizer, prompt):
    with pytest.raises(ValueError, match=r"generate: prompts must be a sequence of texts .* Pass \[prompt\]"):
        generate(scripted(tokenizer, TEXT), tokenizer, prompt)


def test_a_prompt_begins_as_the_tokenizer_begins_texts():
    tokenizer = make_tokenizer(258)
    tokenizer.bos_token = "<|end|>"
    template = processors.TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", END)])
    tokenizer.backend_tokenizer.post_processor = template
    model = ScriptedModel(258, [END, *ids(tokenizer, TEXT)])
    assert generate(model, tokenizer, [TEXT[:3]], max_new_tokens=4, block_size=4) == [TEXT[3:7]]
    assert model.calls[0].input_ids[0].tolist() == [END, *ids(tokenizer, TEXT[:3])] + [MASK] * 4
    # A conversation begins as its template writes it: with that token once, or without.
    prompt = "{{ messages[-1].content }}{% if add_generation_prompt %}:{% endif %}"
    for token, begins in (("{{ bos_token }}", [END]), ("", [])):
        tokenizer.chat_template = token + prompt
        model = ScriptedModel(258, [*begins, *ids(tokenizer, TEXT)])
        messages = [{"role": "user", "content": TEXT[:2]}]
        assert generate(model, tokenizer, [messages], max_new_tokens=4, block_size=4) == [TEXT[3:7]]
        rendered = [*begins, *ids(tokenizer, TEXT[:2] + ":")]
        assert model.calls[-1].input_ids[0].tolist()[: len(rendered)] == rendered
