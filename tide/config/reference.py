"""The reference of all keys, for `tide recipe` and docs/recipe.md."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from tide.config.aliases import ALIASES
from tide.config.sections import Recipe
from tide.config.transformers_arguments import TransformersArguments
from tide.config.values import Section

WIDTH = 100


class Key(NamedTuple):
    """A key; `names` are those that it may be written by, the first being its own."""

    names: tuple[str, ...]
    kind: str
    default: str
    meaning: str


class Group(NamedTuple):
    """The keys of a section, or of two sections with the same keys."""

    sections: tuple[str, ...]
    summary: str
    keys: tuple[Key, ...]


def groups() -> list[Group]:
    """Every key of a recipe, by section."""
    by_class: dict[type[Section], list[str]] = {}
    for name, kind in Recipe.kinds().items():
        if kind.is_section:
            by_class.setdefault(kind.type, []).append(name)
    found = [Group((), "A recipe is a YAML file of these keys and sections.", tuple(_keys(Recipe, "")))]
    for section, names in by_class.items():
        found += _groups_of(section, tuple(names))
    return found


def _groups_of(section: type[Section], names: tuple[str, ...]) -> Iterator[Group]:
    inherited = TransformersArguments if issubclass(section, TransformersArguments) else Section
    yield Group(names, _summary(section), tuple(_keys(section, names[0], without=inherited)))
    for name, kind in section.kinds().items():
        if kind.item is not None:
            yield from _groups_of(kind.item, (f"{names[0]}.{name}[N]",))
    if inherited is TransformersArguments:
        yield Group(names, _summary(inherited), tuple(_keys(inherited, names[0])))


def _keys(section: type[Section], name: str, without: type[Section] = Section) -> Iterator[Key]:
    for key, kind in section.kinds().items():
        if key in without.model_fields or kind.is_section:
            continue
        field = section.model_fields[key]
        aliases = [
            alias.removeprefix(f"{name}.")
            for alias, to in ALIASES.items()
            if to.key == key and alias.startswith(f"{name}.")
        ]
        default = (
            "required" if field.is_required() else _written(field.get_default(call_default_factory=True))
        )
        yield Key((key, *aliases), str(kind), default, field.description or "")


def _summary(section: type[Section]) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]


def _written(value: object) -> str:
    """A default as YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_text(key: str | None = None) -> str:
    """The reference for a terminal, or the part of a section or key.

    Raises:
        ValueError: there is no such section or key.
    """
    lines: list[str] = []
    for group in groups():
        is_whole = key is None or key in group.sections
        section = (key or "").rpartition(".")[0]
        name = (key or "").rpartition(".")[2]
        shown = [
            one for one in group.keys if is_whole or (name in one.names and section in ("", *group.sections))
        ]
        if shown:
            title = ", ".join(f"{section}:" for section in group.sections)
            lines += [*textwrap.wrap(f"{title} {group.summary}".strip(), WIDTH), ""]
        for one in shown:
            also = f" (or {', '.join(one.names[1:])})" if one.names[1:] else ""
            default = one.default if one.default == "required" else f"default {one.default}"
            lines += textwrap.wrap(
                f"{one.names[0]}{also}: {one.kind}; {default}",
                WIDTH,
                initial_indent="  ",
                subsequent_indent="    ",
            )
            lines += textwrap.wrap(one.meaning, WIDTH, initial_indent="      ", subsequent_indent="      ")
        lines += [""] if shown else []
    if not lines:
        raise ValueError(f"{key!r} is not a section or key; run `tide recipe` for all of them")
    return "\n".join(lines).rstrip()


def as_markdown() -> str:
    """docs/recipe.md."""
    lines = ["# Keys of a recipe", "", "Made by `tide recipe --markdown > docs/recipe.md`."]
    for group in groups():
        title = ", ".join(f"`{section}`" for section in group.sections)
        lines += ["", *([f"## {title}", ""] if title else []), group.summary, ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        for one in group.keys:
            names = ", or ".join(f"`{name}`" for name in one.names)
            lines.append(f"| {names} | {one.kind} | {one.default} | {one.meaning} |")
    return "\n".join(lines)
