"""Parse a mapping of a source into a row: a conversation, or a prompt and its completion.

The first form whose keys are present counts; null counts as absent.

    {"messages": [{"role": ..., "content": ...}, ...]}        conversation
    {"conversations": [{"from": ..., "value": ...}, ...]}     conversation, as ShareGPT writes it
    {"prompt": [messages], "completion": [messages]}          conversation; the prompt's answers are context
    {"instruction": "...", "input": "...", "output": "..."}   conversation of one question; input is optional
    {"prompt": "...", "completion": "..."}                    text without a chat template
    {"text": "..."}                                           the same, all of it in the loss

Beside messages or an instruction, "system" (or "system_prompt") is the first message, and "history" earlier
turns that are context: [question, answer] pairs, or messages. Tools, images and the like beside them reject
the row, as does any of these beside a prompt and completion of plain text. Other keys are ignored.

An answer with "weight": 0 or "train": false is context. A message with more than its content (tool calls,
reasoning beside it), or of a named speaker other than the assistant, rejects its row: the loss would read
what follows without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

Raw: TypeAlias = Mapping[str, object]  # a row as its source has it
ASSISTANT = "assistant"
# What makes a row of a mapping.
KEYS = ("messages", "conversations", "prompt", "completion", "instruction", "input", "output", "text")
_SYSTEM = ("system", "system_prompt")
_NOT_TEXT = dict.fromkeys(("images", "image", "videos", "video", "audios", "audio"), "parts other than text")
# Keys beside the messages of a row that reject it, with the reason.
_MORE_BESIDE = _NOT_TEXT | {
    "tools": "tools",
    "functions": "tools",
    "documents": "documents",
    "chat_template_kwargs": "template arguments of a row",
}
CONTEXT_KEYS = (*_SYSTEM, "history", *_MORE_BESIDE)  # what belongs to the row then
# ShareGPT's speakers, by the names that chat templates know.
_SPEAKERS = {"human": "user", "gpt": ASSISTANT, "chatgpt": ASSISTANT, "observation": "tool"}
# Keys of a message that reject its row, with the reason.
_MORE = _NOT_TEXT | {
    "tools": "tools",
    "functions": "tools",
    "documents": "documents",
    "tool_calls": "tool calls",
    "function_call": "tool calls",
    "reasoning_content": "reasoning",
    "reasoning": "reasoning",
    "thinking": "reasoning",
}
_CALLING_ROLES = ("function_call", "tool_call")  # a turn that is a call, its content the arguments


@dataclass(frozen=True)
class Message:
    """One turn: a role (system, user, assistant, tool, ...) and its text."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns that a chat template joins.

    Attributes:
        messages: in order.
        num_prompt: messages of the prompt; answers among them are context.
        context: indices of further answers that the loss does not read.
    """

    messages: tuple[Message, ...]
    num_prompt: int = 0
    context: frozenset[int] = frozenset()

    def is_answer(self, index: int) -> bool:
        """Return True if the loss reads message `index`."""
        is_context = index < self.num_prompt or index in self.context
        return not is_context and self.messages[index].role == ASSISTANT

    @property
    def answers(self) -> list[str]:
        """The contents that the loss reads."""
        return [message.content for at, message in enumerate(self.messages) if self.is_answer(at)]


@dataclass(frozen=True)
class TextRow:
    """A prompt, kept clean, and the completion that diffusion masks and losses read."""

    prompt: str
    completion: str

    @property
    def answers(self) -> list[str]:
        """The text that the loss reads."""
        return [self.completion]


Row: TypeAlias = TextRow | Conversation


class Rejected(NamedTuple):
    """A row that makes no example.

    Attributes:
        reason: a short fixed phrase, for counting.
        detail: the fault of this row; may quote it.
    """

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class RejectedRow(ValueError):
    """Raised where a row is rejected, with the fields of `Rejected`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)  # Both: exceptions are pickled by their args.
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return str(Rejected(self.reason, self.detail))


def read_row(raw: Raw | Rejected) -> Row | Rejected:
    """Parse what a source gave; a fault is returned, not raised."""
    if isinstance(raw, Rejected):
        return raw
    try:
        return parse_row(raw)
    except RejectedRow as error:
        return Rejected(error.reason, error.detail)


def parse_row(value: Raw) -> Row:
    """Parse a mapping in one of the module's forms.

    A conversation needs an answer, and no answer in the loss may be blank: it would teach the model to say
    nothing, and leaving the turn out would change what follows it. Nor may a completion be blank.

    Args:
        value: a message's content is text, or parts {"type": "text", "text": ...} that are joined.
    Returns:
        A Conversation, or a TextRow whose prompt is "" for plain text.
    Raises:
        RejectedRow: "no known keys", "wrong type", "no messages", "no answer", "empty answer" (blank, or
            nothing at all), "parts other than text", "tool calls", "tools", "reasoning", "name of a speaker",
            "documents", "template arguments of a row", "context beside a text", "weight of a message" (other
            than 0 and 1), "half a surrogate pair".
    """
    row = _read_form(value)
    beside = {
        key: value[key]
        for key in CONTEXT_KEYS
        if not _is_blank(value.get(key)) and value[key] not in ("[]", "{}", "null")  # as JSON
    }
    if beside and isinstance(row, Conversation):
        return _with_context(row, beside)
    # A text in one piece holds its context.
    if beside and value.get("prompt") is not None and value.get("completion") is not None:
        raise RejectedRow("context beside a text", f"{', '.join(beside)} beside prompt and completion")
    return row


def _read_form(value: Raw) -> Row:
    given = {key: value[key] for key in KEYS if value.get(key) is not None}
    for key in ("messages", "conversations"):
        if key in given:
            return _conversation(_messages(given[key], key), where=key)
    if "prompt" in given and "completion" in given:
        prompt, completion = given["prompt"], given["completion"]
        if isinstance(prompt, str):
            return _text_row(_text(prompt, "prompt"), completion, "completion")
        first, last = _messages(prompt, "prompt"), _messages(completion, "completion")
        return _conversation(first + last, len(first), where="prompt and completion")
    if "instruction" in given and "output" in given:
        asked = [_text(given[key], key) for key in ("instruction", "input") if key in given]
        question = Message("user", "\n\n".join(filter(None, asked)))
        answer = Message(ASSISTANT, _text(given["output"], "output"))
        return _conversation([(question, True), (answer, True)], where="")
    if "text" in given:
        return _text_row("", given["text"], "text")
    raise RejectedRow(
        "no known keys",
        f"keys {sorted(map(str, value))}, expected messages, conversations, prompt and completion, "
        "instruction and output, or text",
    )


def _text_row(prompt: str, completion: object, where: str) -> TextRow:
    text = _text(completion, where)
    if not text.strip():
        raise RejectedRow("empty answer", f"{where} is blank")
    return TextRow(prompt, text)


def _conversation(turns: list[tuple[Message, bool]], num_prompt: int = 0, *, where: str) -> Conversation:
    """Join messages, each with False if it is context by its own keys."""
    if not turns:
        raise RejectedRow("no messages", f"nothing is in {where}")
    context = [at for at, (_, in_loss) in enumerate(turns) if at >= num_prompt and not in_loss]
    conversation = Conversation(tuple(message for message, _ in turns), num_prompt, frozenset(context))
    answers = conversation.answers
    if not answers:
        of_context = f", context {context}" if context else ""
        raise RejectedRow("no answer", f"roles {[message.role for message, _ in turns]}{of_context}")
    if not all(answer.strip() for answer in answers):
        raise RejectedRow("empty answer", f"one of {len(answers)} answers is blank")
    return conversation


def _with_context(conversation: Conversation, beside: Raw) -> Conversation:
    """Add what a row says beside its messages: a system message and earlier turns in front."""
    for key, reason in _MORE_BESIDE.items():
        if key in beside:
            raise RejectedRow(reason, f"{key} beside the messages")
    head = [message for message in conversation.messages[:1] if message.role == "system"]
    rest = conversation.messages[len(head) :]
    system = [Message("system", _text(beside[key], key)) for key in _SYSTEM if key in beside]
    system = [message for message in dict.fromkeys(system) if message not in head]
    history = _history(beside.get("history", ()))
    num_added = len(system) + len(history)
    return Conversation(
        (*system, *head, *history, *rest),
        num_added + max(conversation.num_prompt, len(head)),
        frozenset(at + num_added for at in conversation.context),
    )


def _history(value: object) -> list[Message]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise RejectedRow("wrong type", f"history is {_kind(value)}, not a list of turns")
    turns = []
    for at, item in enumerate(value):
        where = f"history[{at}]"
        if isinstance(item, Mapping):
            turns.append(_message(item, where)[0])
        elif isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2:
            turns += [
                Message(role, _text(text, where))
                for role, text in zip(("user", ASSISTANT), item, strict=True)
            ]
        else:
            raise RejectedRow("wrong type", f"{where} is no message, nor a question and its answer")
    return turns


def _messages(value: object, where: str) -> list[tuple[Message, bool]]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise RejectedRow("wrong type", f"{where} is {_kind(value)}, not a list of messages")
    return [_message(item, f"{where}[{at}]") for at, item in enumerate(value)]


def _in_loss(value: Mapping[str, object], where: str) -> bool:
    for key in ("weight", "train"):
        given = value.get(key)
        if given is not None and given not in (0, 1):  # False and True among them
            raise RejectedRow("weight of a message", f"{where} has {key} {given!r:.40}, expected 0 or 1")
        if given == 0:
            return False
    return True


def _message(value: object, where: str) -> tuple[Message, bool]:
    if not isinstance(value, Mapping):
        raise RejectedRow("wrong type", f"{where} is {_kind(value)}, not a message")
    for key, reason in _MORE.items():
        if not _is_blank(value.get(key)):
            raise RejectedRow(reason, f"{where} has {key}, which is more than its content")
    role = value.get("role")
    content = value.get("content")
    if role is None and content is None:
        role, content = value.get("from"), value.get("value")
        role = _SPEAKERS.get(role, role) if isinstance(role, str) else role
    if not isinstance(role, str) or not role:
        raise RejectedRow("wrong type", f"{where} has no role that is text")
    if role != ASSISTANT and not _is_blank(value.get("name")):
        raise RejectedRow("name of a speaker", f"{where} has a name, which the template may leave out")
    if role in _CALLING_ROLES:
        raise RejectedRow("tool calls", f"{where} is a {role}")
    message = Message(_text(role, where), _content(content, where))
    return message, role != ASSISTANT or _in_loss(value, where)


def _is_blank(value: object) -> bool:
    """Nothing, or what tables hold for it: "", [], a mapping of nulls."""
    if isinstance(value, Mapping):
        return all(map(_is_blank, value.values()))
    if isinstance(value, str):
        return not value.strip()
    return not value or (isinstance(value, Sequence) and all(map(_is_blank, value)))


def _content(value: object, where: str) -> str:
    if isinstance(value, str):
        return _text(value, where)
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise RejectedRow("wrong type", f"the content of {where} is {_kind(value)}")
    parts = []
    for part in value:
        if not isinstance(part, Mapping):
            raise RejectedRow("wrong type", f"the content of {where} has a part that is {_kind(part)}")
        if part.get("type") != "text":
            raise RejectedRow(
                "parts other than text", f"the content of {where} has a part of type {part.get('type')!r}"
            )
        parts.append(_text(part.get("text"), where))
    return "".join(parts)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise RejectedRow("wrong type", f"{where} is {_kind(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RejectedRow(
            "half a surrogate pair", f"{where} has {value[error.start]!a}, which is no character"
        ) from None
    return value


def _kind(value: object) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"
