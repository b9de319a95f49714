"""Check the variables that a recipe gives to a chat template against the names that the template reads."""

from __future__ import annotations

import json
import warnings
from datetime import datetime
from typing import TYPE_CHECKING

from jinja2 import TemplateError, meta, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2.parser import Parser

CLOCK = "strftime_now"
# What `apply_chat_template` gives every template.
_GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
_CHAT = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "It is."}]
_PROBES = (_CHAT, [{"role": "system", "content": "Be brief."}, *_CHAT])
_TIMES = datetime(2001, 2, 3, 4, 5, 6), datetime(2032, 12, 30, 23, 45, 56)  # every part of them differs


def template_names(template: str) -> frozenset[str]:
    """Return the variables that a template (its source) reads and its caller may give.

    Special tokens, such as `bos_token`, are among them; `messages`, `tools` and the like are not.

    Raises:
        ValueError: it is no template.
    """
    try:
        names = meta.find_undeclared_variables(_ENVIRONMENT.parse(template))
    except TemplateError as error:
        raise ValueError(
            f"template_names: the chat template cannot be read ({type(error).__name__}: {error}). Set "
            "another tokenizer.chat_template."
        ) from None
    return frozenset(names - _GIVEN - {CLOCK})


def check_template_arguments(
    template: str,
    arguments: Mapping[str, object],
    special_tokens: Mapping[str, object] | None = None,
    *,
    key: str = "template_arguments",
) -> None:
    """Check that the template reads every argument; warn if its output still depends on the date.

    Args:
        template: its source, as `tokenizer.get_chat_template()` returns it.
        arguments: variables by name.
        special_tokens: `tokenizer.special_tokens_map`.
        key: of the arguments in the recipe.
    Raises:
        ValueError: the template never reads one, or is none.
    """
    names, special_tokens = template_names(template), special_tokens or {}
    reads = ", ".join(sorted(names - special_tokens.keys())) or "none"
    unread = sorted(arguments.keys() - names)
    if unread:
        raise ValueError(
            f"{key}: the chat template never reads {', '.join(unread)}. It reads {reads}. Correct the name, "
            "or leave it out."
        )
    if _reads_clock(template, {**special_tokens, **arguments}):
        warnings.warn(
            f"{key}: the chat template reads the current date ({CLOCK}), so its output changes daily. Set "
            f"its date by an argument, if it has one; it reads {reads}.",
            stacklevel=2,
        )


class _Generation(Extension):
    """`{% generation %}`, which transformers adds: here its content alone."""

    tags = {"generation"}  # noqa: RUF012  (Jinja declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        content = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(content).set_lineno(line)


def _raise(message: str) -> None:
    raise TemplateError(message)


# As transformers parses templates, but for the clock, which it would not let through.
_ENVIRONMENT = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
)
_ENVIRONMENT.filters["tojson"] = lambda value, **options: json.dumps(
    value, **{"ensure_ascii": False, **options}
)
_ENVIRONMENT.globals["raise_exception"] = _raise


def _reads_clock(template: str, variables: Mapping[str, object]) -> bool:
    """Render short conversations at two times."""
    compiled = _ENVIRONMENT.from_string(template)
    for messages in _PROBES:
        given = dict.fromkeys(_GIVEN) | {"messages": messages, "add_generation_prompt": False, **variables}
        try:
            one, other = (compiled.render({**given, CLOCK: now.strftime}) for now in _TIMES)
        except Exception:  # templates raise what they like
            continue
        if one != other:
            return True
    return False
