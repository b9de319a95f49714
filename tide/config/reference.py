"""The reference of all keys, for `tide recipe` and docs/recipe.md."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

from tide.config.aliases import ALIASES
from tide.config.reading import declared_keys
from tide.config.recipe import Recipe
from tide.config.values import Section, in_words, is_list, section_in

WIDTH = 100


class Key(NamedTuple):
    """A key; `names` are those that it may be written by, the first being its own."""

    names: tuple[str, ...]
    kind: str
    default: str
    meaning: str


def keys_by_section() -> dict[tuple[str, ...], tuple[str, list[Key]]]:
    """The summary and keys of each section, by the names of all sections that have them."""
    names: dict[type[Section], list[str]] = {Recipe: []}
    for name, field in declared_keys(Recipe).items():
        if section := section_in(field.annotation):
            names.setdefault(section, []).append(f"{name}[N]" if is_list(field.annotation) else name)
    return {
        tuple(of_section): ((section.__doc__ or "").strip().splitlines()[0], _keys(section, of_section))
        for section, of_section in names.items()
    }


def _keys(section: type[Section], names: list[str]) -> list[Key]:
    keys = []
    for key, field in section.model_fields.items():
        annotation = field.rebuild_annotation()
        if section_in(annotation) and not is_list(annotation):
            continue
        aliases = [
            alias.rpartition(".")[2]
            for alias, to in ALIASES.items()
            if to == key and alias.rpartition(".")[0] in names[:1]
        ]
        default = (
            "required" if field.is_required() else _written(field.get_default(call_default_factory=True))
        )
        keys.append(Key((key, *aliases), in_words(annotation), default, field.description or ""))
    return keys


def _written(value: object) -> str:
    """A default as YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_text(key: str = "") -> str:
    """The reference for a terminal, or the part of a section or key.

    Raises:
        ValueError: there is no such section or key.
    """
    section, _, name = key.rpartition(".")
    lines: list[str] = []
    for sections, (summary, keys) in keys_by_section().items():
        if key and key not in sections:
            keys = [one for one in keys if name in one.names and section in ("", *sections)]
        if not keys:
            continue
        title = ", ".join(f"{section}:" for section in sections)
        lines += [*textwrap.wrap(f"{title} {summary}".strip(), WIDTH), ""]
        for one in keys:
            also = f" (or {', '.join(one.names[1:])})" if one.names[1:] else ""
            default = one.default if one.default == "required" else f"default {one.default}"
            line = f"  {one.names[0]}{also}: {one.kind}; {default}"
            lines += textwrap.wrap(line, WIDTH, subsequent_indent=" " * 4)
            lines += textwrap.wrap(one.meaning, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
        lines.append("")
    if not lines:
        raise ValueError(f"{key!r} is not a section or key; run `tide recipe` for all of them")
    return "\n".join(lines).rstrip()


def as_markdown() -> str:
    """docs/recipe.md."""
    lines = ["# Keys of a recipe", "", "Made by `tide recipe --markdown > docs/recipe.md`."]
    for sections, (summary, keys) in keys_by_section().items():
        title = ", ".join(f"`{section}`" for section in sections)
        lines += ["", *([f"## {title}", ""] if title else []), summary, ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        for one in keys:
            names = ", or ".join(f"`{name}`" for name in one.names)
            lines.append(f"| {names} | {one.kind} | {one.default} | {one.meaning} |")
    return "\n".join(lines)
