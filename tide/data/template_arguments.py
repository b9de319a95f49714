"""Variables given to a chat template, against the names that it reads.

A variable that a template does not read changes nothing, so a name that is misspelt would be found by nobody.
"""

from __future__ import annotations

import json
import warnings
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, meta, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2.parser import Parser

CLOCK = "strftime_now"
# What `apply_chat_template` gives every template.
_GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
_QUESTION, _ANSWER = {"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "It is."}
_TIMES = datetime(2001, 2, 3, 4, 5, 6), datetime(2032, 12, 30, 23, 45, 56)  # every part of them differs
_PROBES = ([_QUESTION, _ANSWER], [{"role": "system", "content": "Be brief."}, _QUESTION, _ANSWER])


def template_names(template: str) -> frozenset[str]:
    """The variables that a template reads and its caller may give.

    Args:
        template: its source, as `tokenizer.get_chat_template()` returns it.
    Returns:
        Names, without what every template is given (`messages`, `tools`, functions such as `namespace`).
        Special tokens, such as `bos_token`, are among them: an argument goes before the tokenizer's own.
    Raises:
        ValueError: it is no template.
    """
    return _names_read(template) - _GIVEN - {CLOCK}


def check_template_arguments(
    template: str,
    arguments: Mapping[str, object],
    special_tokens: Mapping[str, object] | None = None,
    *,
    key: str = "template_arguments",
) -> None:
    """Every argument is a variable that the template reads; warns where it reads the clock all the same.

    The clock makes another text, and other shards, every day. Whether it does is found by rendering two short
    conversations at two times.

    Args:
        template: its source, as `tokenizer.get_chat_template()` returns it.
        arguments: variables by name.
        special_tokens: `tokenizer.special_tokens_map`, which the template may read, too.
        key: of the arguments, for messages.
    Raises:
        ValueError: the template never reads one, or is none.
    """
    names = template_names(template)
    special_tokens = special_tokens or {}
    settable = ", ".join(sorted(names - special_tokens.keys())) or "none"
    unread = sorted(arguments.keys() - names)
    if unread:
        raise ValueError(
            f"{key}: the chat template never reads {', '.join(unread)}, which would change nothing. It reads "
            f"{settable}. Correct the name, or leave it out."
        )
    if _reads_clock(template, {**special_tokens, **arguments}):
        warnings.warn(
            f"{key}: the chat template reads the clock ({CLOCK}): the same rows are other text tomorrow. Fix "
            f"its date by an argument, if it has one; it reads {settable}.",
            stacklevel=2,
        )


class _Generation(Extension):
    """`{% generation %}`, which transformers adds: here its content alone."""

    tags = {"generation"}  # noqa: RUF012  (Jinja declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        content = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(content).set_lineno(line)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    """Templates parse in it as transformers parses them."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment  # without the clock, which is found by its name


@lru_cache(maxsize=8)
def _names_read(template: str) -> frozenset[str]:
    """Names that a template reads and does not set; those of the environment are not among them."""
    try:
        tree = _environment().parse(template)
    except TemplateError as error:
        raise ValueError(
            f"template_names: the chat template cannot be read ({type(error).__name__}: {error}). Set "
            "another tokenizer.chat_template."
        ) from None
    return frozenset(meta.find_undeclared_variables(tree))


def _reads_clock(template: str, variables: Mapping[str, object]) -> bool:
    if CLOCK not in _names_read(template):
        return False
    return any(
        _rendered(template, messages, variables, _TIMES[0])
        != _rendered(template, messages, variables, _TIMES[1])
        for messages in _PROBES
    )


def _rendered(
    template: str, messages: Sequence[Mapping[str, str]], variables: Mapping[str, object], now: datetime
) -> str | None:
    """The text that a template makes at a time, or None if it refuses the messages."""
    given = dict.fromkeys(_GIVEN) | {"messages": messages, "add_generation_prompt": False}
    try:
        return _environment().from_string(template).render({**given, **variables, CLOCK: now.strftime})
    except Exception:  # templates raise what they like
        return None


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> None:
    raise TemplateError(message)
