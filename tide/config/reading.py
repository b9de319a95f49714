"""From a document to checked sections: problems by key, overrides, and the nearest key for an unknown one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from tide.config.document import UNREADABLE, Document, KeyPath, override_place, split_override
from tide.config.problem import Problem, RecipeError, printable, shown
from tide.config.values import Section, hint_for, hint_of, item_section_in, kind_of, section_in, type_of

ANY_ITEM = "*"  # stands for an item's number in the key of what it holds
_ITEM_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")


class Rule(NamedTuple):
    """A rule over several values of a recipe.

    Attributes:
        key: where a problem is reported.
        broken: returns the problem and its remedy, or None. It waits, by an AttributeError, for values that
            are wrong themselves.
    """

    key: str
    broken: Callable[[Any], str | None]


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

    right: Section = recipe
    if invalid is not None:
        wrong = _wrong_values(type(recipe), document.values, invalid)
        for path, message in wrong.items():
            if message is not None:
                report(path, message)
        right = _right_part(type(recipe), document.values, wrong.keys())
    for rule in rules:
        try:
            message = rule.broken(right)
        except AttributeError:
            continue
        if message is not None:
            report(tuple(rule.key.split(".")), message)
    if problems:
        raise RecipeError(problems)


def _wrong_values(
    cls: type[Section], values: Mapping[str, object], invalid: ValidationError
) -> dict[KeyPath, str | None]:
    """The message for each wrong value; None if its problem is reported already."""
    wrong: dict[KeyPath, str | None] = {}
    for error in invalid.errors(include_url=False):
        path, hint = _declared_at(cls, error["loc"])
        if path in wrong:  # an error for each branch of a union, or each item of a list
            continue
        given = _at(values, path, error["input"])
        if given is UNREADABLE or (isinstance(given, dict) and UNREADABLE in given.values()):
            wrong[path] = None
        elif error["type"] == "extra_forbidden":
            wrong[path] = _unknown(path, cls)
        elif error["type"] == "missing":
            under = f" under {'.'.join(path[:-1])}" if path[1:] else ""
            wrong[path] = f"required key is missing; add {path[-1]} ({kind_of(hint)}){under}"
        elif error["type"] == "value_error":
            rule, semicolon, remedy = str(error["ctx"]["error"]).partition(";")
            wrong[path] = f"{rule}, got {shown(given)}{semicolon}{remedy}"
        else:
            remedy = hint_for(hint, given)
            wrong[path] = f"expected {kind_of(hint)}, got {shown(given)}" + (f"; {remedy}" if remedy else "")
    return wrong


def _declared_at(cls: type[Section], loc: tuple[int | str, ...]) -> tuple[KeyPath, Any]:
    """The key of pydantic's `loc` and its annotation; what is inside a value has the key of the value."""
    path: KeyPath = ()
    hint: Any = cls
    for part in loc:
        if section := section_in(hint):
            field = section.model_fields.get(str(part))
            hint = None if field is None else hint_of(field)
        elif item := item_section_in(hint):
            hint = item
        else:
            break
        path = (*path, str(part))
        if hint is None:
            break
    return path, hint


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

    def right(hint: Any, value: object, here: KeyPath) -> object:
        if here in wrong:
            raise AttributeError
        section, item = section_in(hint), item_section_in(hint)
        if section is not None and isinstance(value, Mapping):
            return _right_part(section, value, wrong, here)
        if item is not None and isinstance(value, list):
            return [right(item, each, (*here, str(at))) for at, each in enumerate(value)]
        return value if section is not None or value is None else TypeAdapter(hint).validate_python(value)

    part = cls.model_construct()
    for name, field in cls.model_fields.items():
        try:
            if (*path, name) in wrong or name in values:
                part.__dict__[name] = right(hint_of(field), values.get(name), (*path, name))
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
            problem = _unknown_override(path, cls, document.values)
            if problem is None:
                document.override(path, value, override_place(text))
            else:
                key = ".".join(map(printable, path))
                document.problems.append(Problem(override_place(text), key, problem))
        except RecipeError as error:
            document.problems.extend(error.problems)


def _unknown_override(path: KeyPath, cls: type[Section], values: object) -> str | None:
    known = dict(declared_keys(cls))
    parent = known.get(".".join(path[:-1]))
    if parent is not None and type_of(parent) is dict:
        return None  # a name in a mapping of names to values
    return _no_such_item(values, path) if _is_known(path, known) else _unknown(path, cls)


def declared_keys(cls: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key with its annotation."""
    for name, field in cls.model_fields.items():
        key, hint = prefix + name, hint_of(field)
        yield key, hint
        if section := section_in(hint):
            yield from declared_keys(section, f"{key}.")
        if item := item_section_in(hint):
            yield from declared_keys(item, f"{key}.{ANY_ITEM}.")


def _is_known(path: KeyPath, known: Mapping[str, Any]) -> bool:
    if ANY_ITEM in path:
        return False
    *holder, name = _with_any_item(path)
    return ".".join((*holder, name)) in known or (
        name == ANY_ITEM and item_section_in(known.get(".".join(holder))) is not None
    )


def _with_any_item(path: KeyPath) -> KeyPath:
    return tuple(ANY_ITEM if _ITEM_NUMBER.fullmatch(key) else key for key in path)


def _with_numbers(key: str, given: KeyPath) -> str:
    """A declared key with the item numbers of `given`, as far as both go the same way."""
    parts = key.split(".")
    for at, (part, other) in enumerate(zip(parts, given, strict=False)):
        if part == ANY_ITEM and _ITEM_NUMBER.fullmatch(other):
            parts[at] = other
        elif part != other:
            break
    return ".".join(parts)


def _no_such_item(values: object, path: KeyPath) -> str | None:
    """The problem with an item's number in the key of an override, if any."""
    for depth, key in enumerate(path):
        if _ITEM_NUMBER.fullmatch(key) and (values is None or isinstance(values, list)):
            length = len(values or [])
            if int(key) >= length:
                name = ".".join(path[:depth])
                return (
                    f"no item {key} in {name}, which has {length}, numbered from 0; give the whole list: "
                    f"{name}=[{{...}}, {{...}}]"
                )
            assert isinstance(values, list)
            values = values[int(key)]
        else:
            values = values.get(key) if isinstance(values, dict) else None
    return None


def _no_item_number(path: KeyPath, known: Mapping[str, Any]) -> str | None:
    """The problem with a key that stands in place of an item's number, if any."""
    for depth, key in enumerate(path):
        item = item_section_in(known.get(".".join(_with_any_item(path[:depth]))))
        if item is not None and not _ITEM_NUMBER.fullmatch(key):
            name = next(
                (name for name in path[depth:] if name in item.model_fields), next(iter(item.model_fields))
            )
            holder = ".".join(path[:depth])
            return (
                f"unknown key; {holder} is a list and {shown(key)} is not an item's number; items are "
                f"numbered from 0: {holder}.0.{name}"
            )
    return None


def _unknown(given: KeyPath, cls: type[Section]) -> str:
    """The key to write instead: the same name elsewhere, else a near one here, else a near one anywhere."""
    known = dict(declared_keys(cls))
    if (problem := _no_item_number(given, known)) is not None:
        return problem
    path = _with_any_item(given)
    section, name = ".".join(path[:-1]), path[-1]
    if "." in name and name in known:
        outer, _, inner = name.rpartition(".")
        return f"unknown key; dots nest in overrides only: write {inner} under {outer}"
    names: dict[str, str] = {}
    for key in known:
        names.setdefault(key.rpartition(".")[2], key)
    siblings = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == section}
    if not siblings:  # an override into a section that does not exist: match the whole key
        name, names = ".".join(path), {key: key for key in known}
    if name in names:
        return f"unknown key; nearest known key: {_with_numbers(names[name], given)}"
    for candidates in (siblings, names):
        if near := difflib.get_close_matches(name, candidates, n=1):
            return f"unknown key; nearest known key: {_with_numbers(candidates[near[0]], given)}"
    return f"unknown key; known keys here: {', '.join(siblings or cls.model_fields)}"
