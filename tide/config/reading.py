"""From a document to checked sections: problems by key, overrides, and the nearest key for an unknown one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from tide.config.aliases import ALIASES, REFUSED
from tide.config.document import Document, KeyPath
from tide.config.problem import Place, Problem, RecipeError, dotted, shown
from tide.config.rules import RULES
from tide.config.values import Section, adapter, in_words, is_list, section_in, takes_any_name

ANY_ITEM = "*"  # stands for an item's number in the key of what it holds
SHOWN_KEYS = 12  # of those that an unknown key may have meant
NEAR = 0.6  # similarity of a name that is proposed for an unknown one
_ITEM_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_WRONG = object()  # a value whose problem is reported


def check(cls: type[Section], document: Document) -> None:
    """Raise a RecipeError for every problem of a document at once."""
    problems = list(document.problems)

    def report(path: KeyPath, message: str | None) -> None:
        problems.append(Problem(document.place(path), dotted(path), message or _unknown(path, cls)))

    right: Any = _right_part(cls, document.values, (), report)
    for key, rule in RULES:
        try:
            for message in rule(right):
                report(tuple(key.split(".")), message)
        except AttributeError:  # the rule reads a value that is wrong
            continue
    if problems:
        raise RecipeError(problems)


def _right_part(
    cls: type[Section],
    values: Mapping[str, object],
    path: KeyPath,
    report: Callable[[KeyPath, str | None], None],
) -> Section:
    """A section of the values that are right; reading another one raises an AttributeError.

    A problem without a message is an unknown key.
    """

    def right(annotation: Any, value: object, here: KeyPath) -> object:
        section = section_in(annotation)
        if section and is_list(annotation) and isinstance(value, list):
            items = [right(section, item, (*here, str(at))) for at, item in enumerate(value)]
            return _WRONG if _WRONG in items else items
        if section and not is_list(annotation) and isinstance(value, Mapping):
            return _right_part(section, value, here, report)
        try:
            return adapter(annotation).validate_python(value, strict=True)
        except ValidationError as error:
            report(here, _message(annotation, value, error))
            return _WRONG

    part = cls.model_construct()
    for name, field in cls.model_fields.items():
        here, annotation = (*path, name), field.rebuild_annotation()
        if name in values:
            part.__dict__[name] = right(annotation, values[name], here)
            if part.__dict__[name] is _WRONG:
                del part.__dict__[name]
        elif field.is_required():
            under = f" under {dotted(path)}" if path else ""
            report(here, f"required key is missing; add {name} ({in_words(annotation)}){under}")
    for name in values:
        if name not in cls.model_fields:
            report((*path, name), None)
    return part


def _message(annotation: Any, value: object, invalid: ValidationError) -> str:
    """The rule that a value breaks, the value, and a remedy."""
    error = invalid.errors(include_url=False)[0]
    rule, remedy = f"expected {in_words(annotation)}", ""
    match error["type"], value:
        case "value_error", _:
            rule, _, remedy = str(error["ctx"]["error"]).partition("; ")
        case "literal_error", str():
            words = re.findall("'(.+?)'", error["ctx"]["expected"])
            near = difflib.get_close_matches(value.lower(), words, n=1)
            remedy = f"nearest: {near[0]}" if near else ""
        case _ if section_in(annotation):
            remedy = (
                "begin each item with a dash" if is_list(annotation) else "write them under it, one a line"
            )
        case _, None:
            remedy = "give a value, or leave the key out"
        case "string_type", bool() | int() | float():
            remedy = "quote it if it is text"
        case "list_type", str():
            remedy = f"write [{shown(value)}]"
        case "int_type", float() if value.is_integer() and abs(value) < 1e15:
            remedy = f"write {value:.0f}"
    return f"{rule}, got {shown(value)}" + (f"; {remedy}" if remedy else "")


def apply_overrides(cls: type[Section], document: Document, overrides: Iterable[str]) -> None:
    """Write `key=value` texts over the document, in order; the last one of a key stands.

    Problems of an override join those of the document.
    """
    for text in overrides:
        place = Place(f"override {text!r}")
        key, equals, value = text.partition("=")
        path: KeyPath = tuple(key.strip().split("."))
        problem = _wrong_path(path, cls, document.values)
        if not equals or not key.strip():
            path, problem = (), "an override is key=value, such as training.max_steps=10"
        if problem is not None:
            document.problems.append(Problem(place, dotted(path), problem))
            continue
        try:
            document.override(path, value, place)
        except RecipeError as error:
            document.problems.extend(error.problems)


def _wrong_path(path: KeyPath, cls: type[Section], values: Any) -> str | None:
    """The problem with the key of an override, if any."""
    keys = declared_keys(cls)
    holder, declared = None, ""
    for depth, written in enumerate(path):
        holder = keys[declared].rebuild_annotation() if declared in keys else None
        key = ALIASES.get(".".join(path[: depth + 1]), written)
        if section_in(holder) and is_list(holder):
            name, items = dotted(path[:depth]), values if isinstance(values, list) else []
            is_number = _ITEM_NUMBER.fullmatch(key) is not None
            # A value of another type in the file is the problem to report.
            if not is_number or (int(key) >= len(items) and (values is None or values is items)):
                return (
                    f"no item {dotted([written])} in {name}, which has {len(items)}, numbered from 0; give "
                    f"a number, or the whole list: {name}=[{{...}}, {{...}}]"
                )
            values, key = items[int(key)] if items else None, ANY_ITEM
        else:
            values = values.get(key) if isinstance(values, dict) else None
        declared = f"{declared}.{key}" if declared else key
    is_known = declared in keys or declared.endswith(f".{ANY_ITEM}") or takes_any_name(holder)
    return None if is_known else _unknown(path, cls)


@cache
def declared_keys(cls: type[Section]) -> dict[str, FieldInfo]:
    """The field of every dotted key; `*` is the number of an item."""
    keys = {}
    for name, field in cls.model_fields.items():
        keys[name] = field
        if section := section_in(field.annotation):
            holder = f"{name}.{ANY_ITEM}" if is_list(field.annotation) else name
            keys |= {f"{holder}.{key}": inner for key, inner in declared_keys(section).items()}
    return keys


def _unknown(path: KeyPath, cls: type[Section]) -> str:
    """Name the key to write: the same name elsewhere, else a near one here, else a near one anywhere."""
    *holders, name = [ANY_ITEM if _ITEM_NUMBER.fullmatch(key) else key for key in path]
    holder = ".".join(holders)
    keys = {key: key for key in declared_keys(cls)}
    if "." in name and name in keys:
        outer, _, inner = name.rpartition(".")
        return f"unknown key; dots nest in overrides only: write {inner} under {outer}"
    if (refused := f"{holder}.{name}") in REFUSED:
        return f"not a key of a recipe: {REFUSED[refused]}"
    here = [key.rpartition(".")[2] for key in keys if key.rpartition(".")[0] == holder]
    keys |= {alias: f"{alias.rpartition('.')[0]}.{to}" for alias, to in ALIASES.items()}

    def similarity(key: str) -> tuple[bool, bool, float]:
        section, _, last = key.rpartition(".")
        # An override may name a section that does not exist.
        ratio = difflib.SequenceMatcher(None, *((last, name) if here else (key, f"{holder}.{name}"))).ratio()
        return ratio == 1, ratio >= NEAR and section == holder, ratio

    nearest = max(keys, key=similarity)
    if similarity(nearest)[-1] < NEAR:
        known = list(here or cls.model_fields)
        more = f" and {len(known) - SHOWN_KEYS} more (see `tide recipe`)" if len(known) > SHOWN_KEYS else ""
        return f"unknown key; known keys here: {', '.join(known[:SHOWN_KEYS])}{more}"
    parts = keys[nearest].split(".")
    for at, (part, given) in enumerate(zip(parts, path, strict=False)):
        parts[at] = given if part == ANY_ITEM and _ITEM_NUMBER.fullmatch(given) else part
    return f"unknown key; nearest known key: {'.'.join(parts)}"
