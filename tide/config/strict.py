"""Plain values to a dataclass, by its annotations: nothing is guessed, dropped or converted silently.

A field is str, int, float, bool, list[str], a dict of names to plain values, a Literal of words, another
dataclass (a section) or a list of those, `| None` where null is allowed, and Annotated with an `Interval` or
`Words` where not every value is. One reading finds all that is wrong. A rule over several fields runs when
those are right, whatever is wrong elsewhere.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

from tide.config.document import UNREADABLE, Document, KeyPath, override_place, split_override
from tide.config.fields import Field, Interval, Words, Wrong
from tide.config.problem import Problem, RecipeError, printable, shown

ANY_ITEM = "*"  # stands for an item's number in the key of what it holds
SHOWN_KEYS = 4  # of a section that requires none
_ITEM_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Rule:
    """A rule over the values of `keys` (dotted); `broken` says what is wrong and how to right it, or None.

    The problem is reported at the first key.
    """

    keys: tuple[str, ...]
    broken: Callable[..., str | None]


@dataclass(frozen=True)
class _Section:
    cls: type
    nullable: bool
    required: bool
    entries: dict[str, Field | _Section | _Sections]

    def __str__(self) -> str:
        required = [name for name, entry in self.entries.items() if entry.required]
        names = required or _first(list(self.entries))
        return f"a section of keys ({', '.join(names)})"


@dataclass(frozen=True)
class _Sections:
    """A list of sections; an item's place in key paths is its number, from 0."""

    item: _Section
    required: bool

    def __str__(self) -> str:
        return f"a list, each item {self.item}"


def read(cls: type, document: Document, rules: Iterable[Rule] = ()) -> dict[str, Any]:
    """The arguments that make a `cls` of a document: sections built, numbers in the type declared.

    Raises:
        RecipeError: every unknown, missing or repeated key, wrong type, value out of bounds and broken rule.
    """
    reader = _Reader(document, _described(cls))
    arguments = reader.section(reader.root, document.values, ())
    for rule in rules:
        if all(key in reader.values for key in rule.keys):
            message = rule.broken(*(reader.values[key] for key in rule.keys))
            if message is not None:
                reader.report(tuple(rule.keys[0].split(".")), message)
    if reader.problems:
        raise RecipeError(reader.problems)
    return arguments


def apply_overrides(cls: type, document: Document, overrides: Iterable[str]) -> None:
    """Write `key=value` texts over the document, in order; the last one of a key stands.

    What is wrong with one goes to the document's problems, to be reported with the rest.
    """
    root = _described(cls)
    for text in overrides:
        try:
            path, value = split_override(text)
            known = dict(_keys(root))
            problem = None
            if not _names_values(known.get(".".join(path[:-1]))):
                is_known = ANY_ITEM not in path and _is_known(".".join(_with_any_item(path)), known)
                problem = _no_such_item(document.values, path) if is_known else _unknown(path, root)
            if problem is None:
                document.override(path, value, override_place(text))
            else:
                key = ".".join(map(printable, path))
                document.problems.append(Problem(override_place(text), key, problem))
        except RecipeError as error:
            document.problems.extend(error.problems)


class _Reader:
    """Reads a document once, collecting what is right in `values` and what is wrong in `problems`."""

    def __init__(self, document: Document, root: _Section) -> None:
        self.document = document
        self.root = root
        self.problems = list(document.problems)
        self.values: dict[str, object] = {}  # by dotted key; a key that is wrong is not there

    def report(self, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(self.document.place(path), ".".join(map(printable, path)), message))

    def section(self, section: _Section, given: Mapping[str, object], path: KeyPath) -> dict[str, Any]:
        """The arguments of a section's dataclass; one that is wrong is left out."""
        for name in given:
            if name not in section.entries:
                self.report((*path, name), _unknown((*path, name), self.root))
        arguments: dict[str, Any] = {}
        for name, entry in section.entries.items():
            here = (*path, name)
            if name in given:
                value = self.entry(entry, given[name], here)
            elif entry.required:
                value = UNREADABLE
                under = f" under {'.'.join(path)}" if path else ""
                self.report(here, f"required key is missing; add {name} ({entry}){under}")
            else:
                value = self.entry(entry, _default(entry), here)
            if value is not UNREADABLE:
                arguments[name] = self.values[".".join(here)] = value
        return arguments

    def entry(self, entry: Field | _Section | _Sections, value: object, path: KeyPath) -> object:
        """The value of a field or section, or UNREADABLE once its problem is reported."""
        if value is UNREADABLE:
            return UNREADABLE
        if isinstance(entry, Field):
            if _names_values(entry) and isinstance(value, Mapping) and UNREADABLE in value.values():
                return UNREADABLE
            try:
                return entry.read(value)
            except Wrong as wrong:
                self.report(path, str(wrong))
                return UNREADABLE
        if isinstance(entry, _Sections):
            if not isinstance(value, (list, tuple)):
                self.report(path, f"expected {entry}, got {shown(value)}; begin each item with a dash")
                return UNREADABLE
            items = [self.entry(entry.item, given, (*path, str(at))) for at, given in enumerate(value)]
            return UNREADABLE if any(item is UNREADABLE for item in items) else items
        if value is None and entry.nullable:
            return None
        if not isinstance(value, Mapping):
            self.report(path, f"expected {entry}, got {shown(value)}; write them under it, one a line")
            return UNREADABLE
        arguments = self.section(entry, value, path)
        return entry.cls(**arguments) if len(arguments) == len(entry.entries) else UNREADABLE


@lru_cache
def _described(cls: type) -> _Section:
    return _section(cls, nullable=False, required=True)


def _section(cls: type, *, nullable: bool, required: bool) -> _Section:
    hints = typing.get_type_hints(cls, include_extras=True)
    entries = {field.name: _entry(field, hints[field.name]) for field in dataclasses.fields(cls)}
    return _Section(cls, nullable, required, entries)


def _entry(field: dataclasses.Field[Any], hint: Any) -> Field | _Section | _Sections:
    extras: tuple[object, ...] = ()
    nullable = False
    while typing.get_origin(hint) in (Annotated, types.UnionType, typing.Union):
        if typing.get_origin(hint) is Annotated:
            hint, *rest = typing.get_args(hint)
            extras += tuple(rest)
        else:
            nullable = True
            (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    required = default is dataclasses.MISSING
    if dataclasses.is_dataclass(hint):
        return _section(typing.cast(type, hint), nullable=nullable, required=required)
    if typing.get_origin(hint) is list and dataclasses.is_dataclass(typing.get_args(hint)[0]):
        item = _section(typing.get_args(hint)[0], nullable=False, required=True)
        return _Sections(item, required)
    words = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    words = next((extra.words for extra in extras if isinstance(extra, Words)), words)
    interval = next((extra for extra in extras if isinstance(extra, Interval)), None)
    kind = str if words else typing.get_origin(hint) or hint
    return Field(kind, nullable, required, default, words, interval)


def _first(names: list[str]) -> list[str]:
    return names if len(names) <= SHOWN_KEYS else [*names[:SHOWN_KEYS], "..."]


def _default(entry: Field | _Section | _Sections) -> object:
    if isinstance(entry, Field):
        return entry.default
    if isinstance(entry, _Sections):
        return []
    return None if entry.nullable else {}


def _names_values(entry: Field | _Section | _Sections | None) -> bool:
    return isinstance(entry, Field) and entry.kind is dict


def _keys(section: _Section, prefix: str = "") -> Iterator[tuple[str, Field | _Section | _Sections]]:
    """Every dotted key, with what is declared there."""
    for name, entry in section.entries.items():
        yield prefix + name, entry
        if isinstance(entry, _Section):
            yield from _keys(entry, f"{prefix}{name}.")
        if isinstance(entry, _Sections):
            yield from _keys(entry.item, f"{prefix}{name}.{ANY_ITEM}.")


def _is_known(key: str, known: Mapping[str, Field | _Section | _Sections]) -> bool:
    section, _, name = key.rpartition(".")
    return key in known or (name == ANY_ITEM and isinstance(known.get(section), _Sections))


def _with_any_item(path: KeyPath) -> KeyPath:
    return tuple(ANY_ITEM if _ITEM_NUMBER.fullmatch(key) else key for key in path)


def _with_numbers(key: str, given: KeyPath) -> str:
    """A declared key with the numbers of the items that another one names, as far as both go the same way."""
    parts = key.split(".")
    for at, (part, there) in enumerate(zip(parts, given, strict=False)):
        if part == ANY_ITEM and _ITEM_NUMBER.fullmatch(there):
            parts[at] = there
        elif part != there:
            break
    return ".".join(parts)


def _no_such_item(values: object, path: KeyPath) -> str | None:
    """What is wrong with an item's number in the key of an override, if anything."""
    for depth, key in enumerate(path):
        number = int(key) if _ITEM_NUMBER.fullmatch(key) else None
        if number is not None and (values is None or isinstance(values, list)):
            length = 0 if values is None else len(values)
            if number >= length:
                name = ".".join(path[:depth])
                return (
                    f"no item {number} in {name}, which has {length}, numbered from 0; give the list as a "
                    f"whole: {name}=[{{...}}, {{...}}]"
                )
            assert isinstance(values, list)
            values = values[number]
        else:
            values = values.get(key) if isinstance(values, dict) else None
    return None


def _no_item_number(path: KeyPath, known: Mapping[str, Field | _Section | _Sections]) -> str | None:
    """What is wrong with a key that stands where an item's number should, if there is one."""
    for depth, key in enumerate(path):
        entry = known.get(".".join(_with_any_item(path[:depth])))
        if isinstance(entry, _Sections) and not _ITEM_NUMBER.fullmatch(key):
            names = entry.item.entries
            name = next((name for name in path[depth:] if name in names), next(iter(names)))
            of_list = ".".join(path[:depth])
            return (
                f"unknown key; {of_list} is a list, and {shown(key)} no number of an item; items are "
                f"numbered from 0: {of_list}.0.{name}"
            )
    return None


def _unknown(given: KeyPath, root: _Section) -> str:
    """What to write instead: the same name elsewhere, else a near one here, else a near one anywhere."""
    declared = dict(_keys(root))
    if (no_number := _no_item_number(given, declared)) is not None:
        return no_number
    path = _with_any_item(given)
    section, name = ".".join(path[:-1]), path[-1]
    known = list(declared)
    if "." in name and name in known:
        outer, _, inner = name.rpartition(".")
        return f"unknown key; dots nest in overrides only: write {inner} under {outer}"
    names: dict[str, str] = {}
    for key in known:
        names.setdefault(key.rpartition(".")[2], key)
    siblings = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == section}
    if not siblings:  # an override into a section that does not exist: the whole key is what to match
        name, names, siblings = ".".join(path), {key: key for key in known}, {}
    if name in names:
        return f"unknown key; nearest known key: {_with_numbers(names[name], given)}"
    for candidates in (siblings, names):
        near = difflib.get_close_matches(name, candidates, n=1)
        if near:
            return f"unknown key; nearest known key: {_with_numbers(candidates[near[0]], given)}"
    return f"unknown key; known keys here: {', '.join(siblings or root.entries)}"
