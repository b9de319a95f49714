"""Render rows by a chat template, and locate in the text the messages and what the loss reads."""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from tide.data.conversation import ASSISTANT, Conversation, Message, RejectedRow, Row, TextRow
from tide.data.template_spans import Place, common_length, locate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Span: TypeAlias = tuple[int, int]  # characters, half-open
# What thoughts end with: a tag such as </think>.
_THOUGHT_ENDS = (">", "]", "\u25b7")
# Marks what transformers' assistant mask holds.
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Rendered:
    """A row as one tokenizer reads it.

    Attributes:
        text: special tokens as they are written.
        pieces: parts of the text that are tokenized apart: one for a conversation, prompt and completion for
            a TextRow.
        contents: span of each message's content (for a TextRow: prompt and completion). They do not overlap,
            and are in order unless the template changes it. Empty where the content is blank or left out.
        offsets: first character of each span in the message's own content; not 0 if the template drops its
            beginning: `text[start:end] == content[offset : offset + end - start]`.
        loss_spans: what the loss reads, in order: every answer with the end of its turn, or the completion.
    """

    text: str
    pieces: tuple[str, ...]
    contents: tuple[Span, ...]
    offsets: tuple[int, ...]
    loss_spans: tuple[Span, ...]


def render(
    row: Row, tokenizer: PreTrainedTokenizerFast, template_arguments: Mapping[str, Any] | None = None
) -> Rendered:
    """Render a row by the tokenizer's chat template; a TextRow only begins as the tokenizer begins texts.

    The loss reads an answer with what ends its turn: all that `{% generation %}` marks, in a template that
    has it; otherwise the content and on to the end of the special token behind it, which the model has to
    write. A template that ends turns without a special token ends them as it ends the text: what follows the
    answer when it is the last one counts, as far as it also follows here. So does what stands in front of the
    answer and `add_generation_prompt` leaves to the model: a space, an empty block for a thought.

    Args:
        row: of any form.
        tokenizer: its `chat_template` is applied as `apply_chat_template` does.
        template_arguments: more variables of the template (`enable_thinking`, `date_string`, ...).
    Raises:
        RejectedRow: the template refuses the conversation, shows a message twice, changes it, or leaves an
            answer out; it leaves out what precedes an answer in the loss, thoughts aside, or puts it
            behind the answer; its generation marks hold no answer, or cut one; a message
            holds the marker of `template_spans`.
        ValueError: the tokenizer has no chat template, or a broken one; `check_chat_template` finds that
            before any row is read.
    """
    if isinstance(row, TextRow):
        pieces = beginning(tokenizer) + row.prompt, row.completion
        split, end = len(pieces[0]), len(pieces[0]) + len(row.completion)
        contents = (split - len(row.prompt), split), (split, end)
        return Rendered("".join(pieces), pieces, contents, (0, 0), contents[1:])
    return _chat_template(tokenizer, template_arguments).render(row)


def render_prompt(messages: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerFast) -> str:
    """Render a conversation and what its template puts in front of the next answer.

    Args:
        messages: each with role and content.
        tokenizer: as for `render`.
    Raises:
        ValueError: the tokenizer has no chat template, or the template refuses the conversation.
    """
    turns = [Message(message["role"], message["content"]) for message in messages]
    try:
        return _chat_template(tokenizer, None).apply(turns, add_generation_prompt=True)[0]
    except RejectedRow as error:
        raise ValueError(
            f"render_prompt: the chat template of {_name(tokenizer)} fails ({error}). Change the "
            "conversation, or set another tokenizer.chat_template."
        ) from None


def check_chat_template(
    tokenizer: PreTrainedTokenizerFast, template_arguments: Mapping[str, Any] | None = None
) -> None:
    """Render one question and one answer.

    Raises:
        ValueError: the tokenizer has no chat template, or it fails on that.
    """
    probe = Conversation((Message("user", "Is this a question?"), Message("assistant", "It is.")))
    try:
        render(probe, tokenizer, template_arguments)
    except RejectedRow as error:
        raise ValueError(
            f"render: the chat template of {_name(tokenizer)} fails on one question and one answer "
            f"({error}). Set another tokenizer.chat_template."
        ) from None


def shared_contents(one: Rendered, other: Rendered) -> tuple[tuple[Span, Span], ...]:
    """Return, per message, the spans of the characters that both renderings of a row show.

    Both spans of a pair hold the same text; they are empty where the templates share none.
    """
    pairs = []
    for (start, end), offset, (other_start, other_end), other_offset in zip(
        one.contents, one.offsets, other.contents, other.offsets, strict=True
    ):
        first = max(offset, other_offset)
        last = min(offset + end - start, other_offset + other_end - other_start)
        shift, other_shift = start - offset, other_start - other_offset
        shared = (first + shift, last + shift), (first + other_shift, last + other_shift)
        pairs.append(shared if first < last else ((start, start), (other_start, other_start)))
    return tuple(pairs)


class _ChatTemplate:
    """A template with the tokens and arguments that it is applied with."""

    def __init__(self, source: str, tokenizer: PreTrainedTokenizerFast, arguments: Mapping[str, Any]) -> None:
        self.source = source
        self.arguments = {**tokenizer.special_tokens_map, **arguments}
        self.has_generation = _GENERATION.search(source) is not None
        special = set(tokenizer.all_special_tokens)
        special |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        longest_first = sorted(special - {""}, key=lambda token: (-len(token), token))
        self.special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def render(self, conversation: Conversation) -> Rendered:
        messages = conversation.messages
        text, marks = self.apply(messages, marked=self.has_generation)

        def with_contents(contents: Sequence[str]) -> str:
            changed = zip(messages, contents, strict=True)
            return self.apply([Message(message.role, content) for message, content in changed])[0]

        places = locate(with_contents, [message.content for message in messages], text)
        shown = sorted(place for place in places if place is not None)
        answers = {}
        for at, place in enumerate(places):
            if conversation.is_answer(at):
                if place is None:
                    raise RejectedRow("template: leaves out an answer", f"message {at} (from 0)")
                answers[at] = place
        _check_context(messages, places, answers)
        if self.has_generation:
            turns = _marked_turns(marks, shown, answers)
        else:
            ends: dict[str, int] = {}
            turns = {
                at: (place.start, self._end_of_turn(messages, at, place.end, shown, text, ends))
                for at, place in answers.items()
            }
        # Of answers behind the same header, the first tells how much of it is theirs.
        leads: dict[tuple[str, str], int] = {}
        loss_spans = []
        for at, (start, end) in sorted(turns.items()):
            number = bisect_right(shown, start, key=_end)
            before = shown[number - 1] if number else Place(0, 0, 0)
            header = messages[at - 1].role, text[before.end : start]
            if header not in leads:
                leads[header] = self._lead(messages[:at], text, before, start)
            loss_spans.append((start - leads[header], end))
        spans, end = [], 0
        for place in places:
            spans.append((place.start, place.end) if place is not None else (end, end))
            end = spans[-1][1]
        offsets = tuple(0 if place is None else place.offset for place in places)
        return Rendered(text, (text,), tuple(spans), offsets, tuple(sorted(loss_spans)))

    def _lead(self, messages: Sequence[Message], text: str, before: Place, start: int) -> int:
        """Count the characters between `before` and an answer's start that the template leaves to the model.

        A generation prompt after `messages` ends where the model begins. A template that has none leaves it
        the spaces: words and a line break there belong to the header.
        """
        if before.end == start:
            return 0
        try:
            prompt, _ = self.apply(messages, add_generation_prompt=True)
            ends = range(start, before.end - 1, -1)
            end = next((end for end in ends if prompt.endswith(text[before.start : end])), None)
            if (end is None or text[end:start].strip()) and self.apply(messages)[0] == prompt:
                return start - before.end - len(text[before.end : start].rstrip(" "))
        except RejectedRow:
            return 0
        return 0 if end is None else start - end

    def _end_of_turn(
        self,
        messages: Sequence[Message],
        at: int,
        content_end: int,
        shown: Sequence[Place],
        text: str,
        ends: dict[str, int],
    ) -> int:
        """Find where a turn ends; of answers before the same text, the first tells (in `ends`)."""
        number = bisect_left(shown, content_end, key=_start)
        following = shown[number].start if number < len(shown) else len(text)
        special = self.special.search(text, content_end, following)
        if special:
            if not text[content_end : special.start()].strip():
                return special.end()
            following = special.end()
        behind = text[content_end:following]
        if at + 1 == len(messages):
            return following
        if behind not in ends:
            ends[behind] = 0
            try:
                alone = self.apply(messages[: at + 1])[0]
            except RejectedRow:
                return content_end
            if alone.startswith(text[:content_end]):
                ends[behind] = common_length(alone[content_end:], behind)
        return content_end + ends[behind]

    def apply(
        self, messages: Sequence[Message], *, marked: bool = False, add_generation_prompt: bool = False
    ) -> tuple[str, list[Span]]:
        """Return the rendered text, and if `marked` the spans of its generation marks (quadratic)."""
        # Imported here: `import tide` does without.
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, marks = render_jinja_template(
                [[{"role": message.role, "content": message.content} for message in messages]],
                chat_template=self.source,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=add_generation_prompt,
                **self.arguments,
            )
        except Exception as error:  # templates raise what they like
            raise RejectedRow("template: refuses", f"{type(error).__name__}: {error}") from None
        return texts[0], marks[0] if marks else []


def _check_context(
    messages: Sequence[Message], places: Sequence[Place | None], answers: Mapping[int, Place]
) -> None:
    """Check that what precedes an answer in the loss stands before it in the text.

    Whitespace, and the thoughts that an assistant's message begins with, may be left out.
    """
    following = _following(answers)
    for at, (message, place) in enumerate(zip(messages[: max(answers)], places, strict=False)):
        start, end = (0, 0) if place is None else (place.offset, place.offset + place.end - place.start)
        left_out, rest = message.content[:start].strip(), message.content[end:].strip()
        if place is None:
            left_out, rest = rest, ""
        is_thought = message.role == ASSISTANT and left_out.endswith(_THOUGHT_ENDS)
        if rest or (left_out and not is_thought):
            detail = f"message {at} (from 0), of role {message.role!r}" + (", in part" if place else "")
            raise RejectedRow("template: leaves out a message", detail)
        if place and place.end > following[at]:
            raise RejectedRow("template: puts a message behind its answer", f"message {at} (from 0)")


def _following(answers: Mapping[int, Place]) -> list[int]:
    """Return where in the text the first answer behind each message starts, up to the last answer."""
    firsts, first = [], answers[max(answers)].start
    for at in reversed(range(max(answers))):
        firsts.append(first)
        if at in answers:
            first = min(first, answers[at].start)
    return firsts[::-1]


def _marked_turns(
    marks: Sequence[Span], shown: Sequence[Place], answers: Mapping[int, Place]
) -> dict[int, Span]:
    """Return the generation marks that hold answers, by the first answer in each.

    Marks that meet are one turn, unless they hold different messages.
    """
    merged: list[Span] = []
    for mark in sorted(marks):
        held, before = _held(shown, mark), _held(shown, merged[-1]) if merged else []
        if merged and mark[0] <= merged[-1][1] and not (before and held and before[-1] != held[0]):
            merged[-1] = (merged[-1][0], max(mark[1], merged[-1][1]))
        else:
            merged.append(mark)
    numbers = {place: at for at, place in answers.items()}
    places = sorted(numbers)
    turns = {}
    for start, end in merged:
        touched = {numbers[place]: place for place in _held(places, (start, end))}
        # Marks in a macro are counted from the wrong place.
        if any(place.start < start or end < place.end for place in touched.values()):
            raise RejectedRow("template: marks a part of an answer", f"mark {start} to {end} cuts one")
        if touched:
            turns[min(touched)] = (start, end)
    if not turns:
        raise RejectedRow("template: no answer marked", f"its generation marks hold {list(marks)}")
    return turns


def _held(shown: Sequence[Place], mark: Span) -> list[Place]:
    return list(shown[bisect_right(shown, mark[0], key=_end) : bisect_left(shown, mark[1], key=_start)])


_start, _end = attrgetter("start"), attrgetter("end")


@lru_cache(maxsize=8)
def beginning(tokenizer: PreTrainedTokenizerFast) -> str:
    """The token that the tokenizer puts first; without it, models such as Gemma predict badly."""
    begins = tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if begins else ""


def _chat_template(tokenizer: PreTrainedTokenizerFast, arguments: Mapping[str, Any] | None) -> _ChatTemplate:
    try:
        source = tokenizer.get_chat_template()
    except ValueError:
        raise ValueError(
            f"render: {_name(tokenizer)} has no chat template, which a conversation needs. Set "
            "tokenizer.chat_template, or give prompts and completions as plain text."
        ) from None
    state = json.dumps([len(tokenizer), tokenizer.special_tokens_map], default=str)
    return _cached_template(source, tokenizer, state, json.dumps(arguments or {}, sort_keys=True))


@lru_cache(maxsize=8)
def _cached_template(
    source: str, tokenizer: PreTrainedTokenizerFast, state: str, arguments: str
) -> _ChatTemplate:
    """Keep a template per state of the tokenizer: its special tokens may change."""
    return _ChatTemplate(source, tokenizer, json.loads(arguments))


def _name(tokenizer: PreTrainedTokenizerFast) -> str:
    return f"the tokenizer {tokenizer.name_or_path!r}" if tokenizer.name_or_path else "the tokenizer"
