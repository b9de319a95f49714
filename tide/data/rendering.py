"""A row as one side's tokenizer reads it: text, where each content stands in it, and what is learnt of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from tide.data.conversation import Conversation, Message, RejectedRow, Row, TextRow
from tide.data.template_spans import Place, common_length, locate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Span: TypeAlias = tuple[int, int]  # characters, half-open
# Marks what transformers' assistant mask holds.
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Rendered:
    """A row on one side.

    Attributes:
        text: what the tokenizer reads, special tokens as they are written.
        pieces: parts that are tokenized apart; joined they are the text. One for a conversation, prompt and
            completion for a TextRow.
        contents: where each message's content stands, by message (for a TextRow: prompt and completion). They
            do not overlap, and are in order unless the template changes it. An empty span: the content is
            blank, or this template leaves it out.
        offsets: where in the message's own content each of those begins; not 0 if the template drops its
            beginning, such as white space. `text[start:end] == content[offset : offset + end - start]`.
        loss_spans: the text that the loss reads, in order: every answer with the end of its turn; for a
            TextRow the completion.
    """

    text: str
    pieces: tuple[str, ...]
    contents: tuple[Span, ...]
    offsets: tuple[int, ...]
    loss_spans: tuple[Span, ...]


def render(
    row: Row, tokenizer: PreTrainedTokenizerFast, template_arguments: Mapping[str, Any] | None = None
) -> Rendered:
    """A row through one side's chat template; a TextRow has none.

    An answer is learnt with what ends its turn: all that `{% generation %}` marks in a template that has it.
    Otherwise the content, and on from there to the end of the special token behind it, which the model has to
    write itself. A template that ends turns without a special token ends them as it ends the text: what
    follows the answer when it is the last one is learnt, as far as it also follows here. White space around
    an answer is learnt if the template keeps it. In either kind of template, so is what stands in front of it
    and is left to the model by `add_generation_prompt`: a space, an empty block for a thought.

    Args:
        row: to be rendered.
        tokenizer: its `chat_template` is applied as `apply_chat_template` does.
        template_arguments: more variables of the template (`enable_thinking`, `date_string`, ...). A template
            that reads the clock gives another text every day unless they fix it.
    Returns:
        The text and its spans.
    Raises:
        RejectedRow: "template: refuses" the conversation; "template: a message twice"; "template: changes a
            message", which is then not shown as it is; "template: leaves out an answer"; "template: no answer
            marked" or "template: marks a part of an answer", by its generation marks; "template: marker in
            the text".
        ValueError: the tokenizer has no chat template, or not one that works; `check_chat_template` finds
            that before any row is read.
    """
    if isinstance(row, TextRow):
        split, end = len(row.prompt), len(row.prompt) + len(row.completion)
        spans = ((0, split), (split, end))
        return Rendered(
            row.prompt + row.completion, (row.prompt, row.completion), spans, (0, 0), ((split, end),)
        )
    return _chat_template(tokenizer, template_arguments).render(row)


def check_chat_template(
    tokenizer: PreTrainedTokenizerFast, template_arguments: Mapping[str, Any] | None = None
) -> None:
    """Renders a conversation of one question and one answer.

    Raises:
        ValueError: the tokenizer has no chat template, or it fails on that.
    """
    probe = Conversation((Message("user", "Is this a question?"), Message("assistant", "It is.")))
    try:
        _chat_template(tokenizer, template_arguments).render(probe)
    except RejectedRow as error:
        raise ValueError(
            f"render: the chat template of {_name(tokenizer)} fails on one question and one answer "
            f"({error}). Set another tokenizer.chat_template."
        ) from None


def shared_contents(one: Rendered, other: Rendered) -> tuple[tuple[Span, Span], ...]:
    """The part of each content that both renderings of a row show, as spans in either text.

    Both spans of a pair hold the same characters of the row. Templates that strip contents, or drop a part of
    them, share what is left; where nothing is, the spans are empty.
    """
    pairs = []
    for (start, end), offset, (other_start, other_end), other_offset in zip(
        one.contents, one.offsets, other.contents, other.offsets, strict=True
    ):
        first = max(offset, other_offset)
        last = max(first, min(offset + end - start, other_offset + other_end - other_start))
        shift, other_shift = start - offset, other_start - other_offset
        empty = first == last
        pairs.append(
            (
                (start, start) if empty else (first + shift, last + shift),
                (other_start, other_start) if empty else (first + other_shift, last + other_shift),
            )
        )
    return tuple(pairs)


class _ChatTemplate:
    """One template with the tokens and arguments that it is applied with."""

    def __init__(self, source: str, tokenizer: PreTrainedTokenizerFast, arguments: Mapping[str, Any]) -> None:
        self.source = source
        self.arguments = {**tokenizer.special_tokens_map, **arguments}
        self.has_generation = _GENERATION.search(source) is not None
        special = set(tokenizer.all_special_tokens)
        special |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        longest_first = sorted(special - {""}, key=lambda token: (-len(token), token))
        self.special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def render(self, conversation: Conversation) -> Rendered:
        roles = [message.role for message in conversation.messages]
        contents = [message.content for message in conversation.messages]
        text, generated = self._apply(roles, contents)
        places = locate(lambda changed: self._apply(roles, changed)[0], contents, text)
        shown = sorted(place for place in places if place is not None)
        answers = _answers(conversation, places)
        if self.has_generation:
            learnt = _marked(generated, shown, answers)
        else:
            learnt = {
                at: (place.start, self._end_of_turn(roles, contents, at, place.end, shown, text))
                for at, place in answers.items()
            }
        # Of answers behind the same header, the first tells how much of it is theirs.
        leads: dict[tuple[str, str], int] = {}
        turns = []
        for at, (start, end) in sorted(learnt.items()):
            before = next((place for place in reversed(shown) if place.end <= start), Place(0, 0, 0))
            header = roles[at - 1], text[before.end : start]
            if header not in leads:
                leads[header] = self._lead(roles[:at], contents[:at], text, before, start)
            turns.append((start - leads[header], end))
        spans, end = [], 0
        for place in places:
            spans.append((place.start, place.end) if place is not None else (end, end))
            end = spans[-1][1]
        offsets = tuple(0 if place is None else place.offset for place in places)
        return Rendered(text, (text,), tuple(spans), offsets, tuple(sorted(turns)))

    def _lead(
        self, roles: Sequence[str], contents: Sequence[str], text: str, before: Place, start: int
    ) -> int:
        """How many characters before an answer the template leaves to the model: a space, an empty thought.

        A generation prompt ends where the model begins. A template that has none leaves it the spaces: words
        and a line break there belong to the header.

        Args:
            roles, contents: of the messages before it.
            text: the whole rendering.
            before: where the content stands that the answer follows.
            start: where the answer begins.
        """
        if before.end == start:
            return 0
        try:
            prompt, _ = self._apply(roles, contents, add_generation_prompt=True)
            ends = range(start, before.end - 1, -1)
            end = next((end for end in ends if prompt.endswith(text[before.start : end])), start)
            if text[end:start].strip() and self._apply(roles, contents)[0] == prompt:
                return start - end - len(text[end:start].rstrip(" "))
        except RejectedRow:
            return 0
        return start - end

    def _end_of_turn(
        self,
        roles: Sequence[str],
        contents: Sequence[str],
        message: int,
        content_end: int,
        shown: Sequence[Place],
        text: str,
    ) -> int:
        following = next((place.start for place in shown if place.start >= content_end), len(text))
        special = self.special.search(text, content_end, following)
        if special:
            if not text[content_end : special.start()].strip():
                return special.end()
            following = special.end()
        alone = text
        if message + 1 < len(roles):
            try:
                alone, _ = self._apply(roles[: message + 1], contents[: message + 1])
            except RejectedRow:
                return content_end
        if not alone.startswith(text[:content_end]):
            return content_end
        return content_end + common_length(alone[content_end:], text[content_end:following])

    def _apply(
        self, roles: Sequence[str], contents: Sequence[str], *, add_generation_prompt: bool = False
    ) -> tuple[str, list[Span]]:
        """The rendered text, and what its generation marks hold."""
        # Imported here: `import tide` does without.
        from transformers.utils.chat_template_utils import render_jinja_template

        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        try:
            texts, generated = render_jinja_template(
                [messages],
                chat_template=self.source,
                return_assistant_tokens_mask=self.has_generation,
                add_generation_prompt=add_generation_prompt,
                **self.arguments,
            )
        except Exception as error:  # templates raise what they like
            raise RejectedRow("template: refuses", f"{type(error).__name__}: {error}") from None
        return texts[0], generated[0] if generated else []


def _answers(conversation: Conversation, places: Sequence[Place | None]) -> dict[int, Place]:
    """Places of what is to be learnt, by message."""
    answers = {}
    for at, place in enumerate(places):
        if conversation.is_answer(at):
            if place is None:
                raise RejectedRow("template: leaves out an answer", f"message {at} (from 0)")
            answers[at] = place
    return answers


def _marked(
    generated: Sequence[Span], shown: Sequence[Place], answers: Mapping[int, Place]
) -> dict[int, Span]:
    """What the template marks around the answers that are to be learnt, by the first answer in it.

    Marks that meet are one turn, unless they hold different messages.
    """
    merged: list[Span] = []
    for mark in sorted(generated):
        held, before = _held(shown, mark), _held(shown, merged[-1]) if merged else []
        if merged and mark[0] <= merged[-1][1] and not (before and held and before[-1] != held[0]):
            merged[-1] = (merged[-1][0], max(mark[1], merged[-1][1]))
        else:
            merged.append(mark)
    learnt = {}
    for start, end in merged:
        touched = {at: place for at, place in answers.items() if start < place.end and place.start < end}
        # Marks in a macro are counted from the wrong place.
        if any(place.start < start or end < place.end for place in touched.values()):
            raise RejectedRow("template: marks a part of an answer", f"mark {start} to {end} cuts one")
        if touched:
            learnt[min(touched)] = (start, end)
    if not learnt:
        raise RejectedRow("template: no answer marked", f"its generation marks hold {list(generated)}")
    return learnt


def _held(shown: Sequence[Place], mark: Span) -> list[Place]:
    return [place for place in shown if place.start < mark[1] and mark[0] < place.end]


def _chat_template(tokenizer: PreTrainedTokenizerFast, arguments: Mapping[str, Any] | None) -> _ChatTemplate:
    try:
        source = tokenizer.get_chat_template()
    except ValueError:
        raise ValueError(
            f"render: {_name(tokenizer)} has no chat template, and a row is a conversation. Set "
            "tokenizer.chat_template, or give rows of prompt and completion."
        ) from None
    state = json.dumps([len(tokenizer), tokenizer.special_tokens_map], default=str)
    return _cached_template(source, tokenizer, state, json.dumps(arguments or {}, sort_keys=True))


@lru_cache(maxsize=8)
def _cached_template(
    source: str, tokenizer: PreTrainedTokenizerFast, state: str, arguments: str
) -> _ChatTemplate:
    """For one state of the tokenizer: its special tokens may change."""
    return _ChatTemplate(source, tokenizer, json.loads(arguments))


def _name(tokenizer: PreTrainedTokenizerFast) -> str:
    return f"the tokenizer {tokenizer.name_or_path!r}" if tokenizer.name_or_path else "the tokenizer"
