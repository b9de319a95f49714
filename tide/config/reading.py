"""From a document to checked sections: problems by key, overrides, and the nearest key for an unknown one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tide.config.aliases import ALIASES, alias_at
from tide.config.document import UNREADABLE, Document, KeyPath, override_place, split_override
from tide.config.problem import Problem, RecipeError, printable, shown
from tide.config.rules import Rule
from tide.config.transformers_arguments import REFUSED
from tide.config.values import Kind, Section

ANY_ITEM = "*"  # stands for an item's number in the key of what it holds
_ITEM_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")


def check(
    recipe: Section, document: Document, invalid: ValidationError | None, rules: Iterable[Rule]
) -> None:
    """Raise a RecipeError for every problem of a document at once.

    Args:
        recipe: built from `document`, if `invalid` is None.
        invalid: pydantic's error.
    """
    problems = list(document.problems)

    def report(path: KeyPath, message: str) -> None:
        problems.append(Problem(document.place(path), ".".join(map(printable, path)), message))

    right: Any = recipe
    if invalid is not None:
        wrong = _wrong_values(type(recipe), document.values, invalid)
        for path, message in wrong.items():
            if message is not None:
                report(path, message)
        right = _right_part(type(recipe), document.values, wrong.keys())
    for rule in rules:
        try:
            for message in rule.problems(right):
                report(tuple(rule.key.split(".")), message)
        except AttributeError:  # the rule reads a value that is wrong
            continue
    if problems:
        raise RecipeError(problems)


def _wrong_values(
    cls: type[Section], values: Mapping[str, object], invalid: ValidationError
) -> dict[KeyPath, str | None]:
    """The message for each wrong value; None if its problem is reported already."""
    wrong: dict[KeyPath, str | None] = {}
    for error in invalid.errors(include_url=False):
        path, kind = _declared_at(cls, error["loc"])
        if path in wrong:  # an error for each branch of a union, or each item of a list
            continue
        given = _at(values, path, error["input"])
        if given is UNREADABLE or (isinstance(given, dict) and UNREADABLE in given.values()):
            wrong[path] = None
        elif error["type"] == "extra_forbidden":
            wrong[path] = _unknown(path, cls)
        elif error["type"] == "missing":
            under = f" under {'.'.join(path[:-1])}" if path[1:] else ""
            wrong[path] = f"required key is missing; add {path[-1]} ({kind}){under}"
        elif error["type"] == "value_error":
            rule, semicolon, remedy = str(error["ctx"]["error"]).partition(";")
            wrong[path] = f"{rule}, got {shown(given)}{semicolon}{remedy}"
        else:
            assert kind is not None
            remedy = kind.remedy(given)
            wrong[path] = f"expected {kind}, got {shown(given)}" + (f"; {remedy}" if remedy else "")
    return wrong


def _declared_at(cls: type[Section], loc: tuple[int | str, ...]) -> tuple[KeyPath, Kind | None]:
    """The key of pydantic's `loc` and its kind, or None if unknown; inside a value, the value's key."""
    path: KeyPath = ()
    kind: Kind | None = Kind.of(cls)
    for part in map(str, loc):
        if kind is None or not (kind.is_section or kind.item):
            break
        path, kind = (*path, part), kind.child(part)
    return path, kind


def _at(values: object, path: KeyPath, default: object) -> object:
    for key in path:
        if isinstance(values, Mapping) and key in values:
            values = values[key]
        elif isinstance(values, list):
            values = values[int(key)]
        else:
            return default
    return values


def _right_part(
    cls: type[Section], values: Mapping[str, object], wrong: Collection[KeyPath], path: KeyPath = ()
) -> Section:
    """A section of the values that are right; reading another one raises an AttributeError."""

    def right(kind: Kind, value: object, here: KeyPath) -> object:
        if here in wrong:
            raise AttributeError
        if kind.is_section and isinstance(value, Mapping):
            return _right_part(kind.type, value, wrong, here)
        if kind.item is not None and isinstance(value, list):
            return [right(Kind.of(kind.item), each, (*here, str(at))) for at, each in enumerate(value)]
        if kind.is_section or value is None:
            return value
        return TypeAdapter(kind.annotation).validate_python(value)

    part = cls.model_construct()
    for name, kind in cls.kinds().items():
        try:
            if (*path, name) in wrong or name in values:
                part.__dict__[name] = right(kind, values.get(name), (*path, name))
        except AttributeError:
            part.__dict__.pop(name, None)
    return part


def apply_overrides(cls: type[Section], document: Document, overrides: Iterable[str]) -> None:
    """Write `key=value` texts over the document, in order; the last one of a key stands.

    Problems of an override join those of the document.
    """
    for text in overrides:
        try:
            path, value = split_override(text)
            problem = _wrong_path(path, cls, document.values)
            if problem is None:
                document.override(path, value, override_place(text))
            else:
                key = ".".join(map(printable, path))
                document.problems.append(Problem(override_place(text), key, problem))
        except RecipeError as error:
            document.problems.extend(error.problems)


def _wrong_path(path: KeyPath, cls: type[Section], values: object) -> str | None:
    """The problem with the key of an override, if any."""
    kind: Kind | None = Kind.of(cls)
    for depth, written in enumerate(path):
        key = alias_at(path[: depth + 1]).key
        if kind is not None and kind.item is not None:
            name, length = ".".join(path[:depth]), len(values) if isinstance(values, list) else 0
            if not _ITEM_NUMBER.fullmatch(key):
                keys = kind.item.model_fields
                example = next((key for key in path[depth:] if key in keys), next(iter(keys)))
                return (
                    f"unknown key; {name} is a list and {shown(written)} is not an item's number; items are "
                    f"numbered from 0: {name}.0.{example}"
                )
            if int(key) >= length and (values is None or isinstance(values, list)):
                return (
                    f"no item {key} in {name}, which has {length}, numbered from 0; give the whole list: "
                    f"{name}=[{{...}}, {{...}}]"
                )
            values = values[int(key)] if isinstance(values, list) else None
        elif kind is not None and kind.type is dict and path[depth:] == path[-1:]:
            return None
        else:
            values = values.get(key) if isinstance(values, dict) else None
        kind = None if kind is None else kind.child(key)
        if kind is None:
            return _unknown(path, cls)
    return None


def declared_keys(cls: type[Section], prefix: str = "") -> Iterator[str]:
    """Every dotted key; `*` is the number of an item."""
    for name, kind in cls.kinds().items():
        yield prefix + name
        if kind.is_section:
            yield from declared_keys(kind.type, f"{prefix}{name}.")
        if kind.item is not None:
            yield from declared_keys(kind.item, f"{prefix}{name}.{ANY_ITEM}.")


def _unknown(path: KeyPath, cls: type[Section]) -> str:
    """Name the key to write: the same name elsewhere, else a near one here, else a near one anywhere."""
    *holders, name = [ANY_ITEM if _ITEM_NUMBER.fullmatch(key) else key for key in path]
    known = {key: key for key in declared_keys(cls)}
    if name in known and "." in name:
        outer, _, inner = name.rpartition(".")
        return f"unknown key; dots nest in overrides only: write {inner} under {outer}"
    if holders == ["training"] and name in REFUSED:
        return f"not a key of a recipe: {REFUSED[name]}"
    here = [key.rpartition(".")[2] for key in known if key.split(".")[:-1] == holders]
    for written, alias in ALIASES.items():
        known[written] = f"{written.rpartition('.')[0]}.{alias.key}"
    names = {key.rpartition(".")[2]: target for key, target in reversed(known.items())}
    siblings = {
        key.rpartition(".")[2]: target for key, target in known.items() if key.split(".")[:-1] == holders
    }
    if not siblings:  # an override into a section that does not exist: match the whole key
        name, names = ".".join((*holders, name)), known
    for candidates in ({name: names[name]} if name in names else {}, siblings, names):
        if near := difflib.get_close_matches(name, candidates, n=1):
            nearest = candidates[near[0]].split(".")
            for at, (part, given) in enumerate(zip(nearest, path, strict=False)):
                nearest[at] = given if part == ANY_ITEM and _ITEM_NUMBER.fullmatch(given) else part
            return f"unknown key; nearest known key: {'.'.join(nearest)}"
    return f"unknown key; known keys here: {', '.join(here or cls.model_fields)}"
