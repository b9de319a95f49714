"""Recipe text to plain values, each with its place.

Scalars are those of YAML 1.2: 5e-5 is a number and `no` is text. PyYAML follows 1.1, where they are text and
false. YAML aliases, tags and merge keys are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from tide.config.aliases import Alias, alias_at
from tide.config.problem import Place, Problem, RecipeError, printable, shown
from tide.config.values import FLOAT_PATTERN

KeyPath = tuple[str, ...]

_INTEGER = r"[-+]?(?:0|[1-9][0-9]{0,17})"  # 18 digits stay within int64; more are read as a float
_SCALARS: dict[str, Callable[[str], object]] = {
    "tag:yaml.org,2002:str": str,
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:bool": lambda text: {"true": True, "false": False}[text.lower()],
    "tag:yaml.org,2002:null": lambda text: None,
}
UNREADABLE = object()  # a value whose problem is reported already


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # An alias may contain itself, and a few lines of them expand to gigabytes.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read", event.start_mark)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {}  # not those of YAML 1.1


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes text that only YAML 1.2 reads as a number, so that every reader agrees."""


for _loader_or_dumper in (_Loader, _Dumper):
    for _name, _pattern, _first in (
        ("int", rf"{_INTEGER}\Z", "-+0123456789"),
        ("float", FLOAT_PATTERN.pattern, "-+.0123456789"),
        ("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", "tTfF"),
        ("null", r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    ):
        _loader_or_dumper.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(_pattern), list(_first)
        )


@dataclass
class Document:
    """Plain values (dict, list, str, int, float, bool, None) and their places.

    Attributes:
        values: nested by section, as in the file.
        origin: the place of values without their own.
        places: by path of keys; a path without one has that of its nearest ancestor.
        problems: of values that cannot be read, which are `UNREADABLE`; the rest is read.
    """

    values: dict[str, object]
    origin: Place
    places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Document:
        """Read a YAML file.

        Raises:
            RecipeError: no such file, not UTF-8, not YAML, empty, not a mapping. A problem that leaves the
                rest readable (a key given twice, a tag on a value) goes to `problems`.
        """
        origin = Place(os.fspath(path))
        try:
            text = Path(path).read_bytes().decode("utf-8")
        except FileNotFoundError:
            _fail(origin, "no such file; give the path of a recipe (relative to the current directory)")
        except UnicodeDecodeError as error:
            _fail(origin, f"not UTF-8 text (byte {error.start}); save the recipe as UTF-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            _fail(origin, f"cannot be read ({reason}); give the path of a readable YAML file")
        document = cls({}, origin)
        root = _compose(text, origin, lines=True)
        if root is None or root.tag == "tag:yaml.org,2002:null":
            _fail(origin, "the recipe is empty; give at least method, student, data and training")
        values = document._value(root, (), None)
        if values is UNREADABLE:
            raise RecipeError(document.problems)
        if not isinstance(values, dict):
            _fail(
                origin,
                f"a recipe is a mapping of keys to values; got {shown(values)}. Write key: value lines",
            )
        document.values = values
        return document

    @classmethod
    def from_mapping(cls, values: Mapping[str, object], origin: Place) -> Document:
        """Take plain Python values; nested mappings are copied."""
        document = cls({}, origin)
        document.values = document._copied(values, ())
        return document

    def place(self, path: KeyPath) -> Place:
        """The place of the value at `path`, or else of the section that holds it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, self.origin)

    def override(self, path: KeyPath, text: str, place: Place) -> None:
        """Set the value at `path` to `text`, read as YAML; sections on the way are created, items are not.

        Raises:
            RecipeError: `text` is not YAML.
        """
        alias = alias_at(path)
        path = (*path[:-1], alias.key)
        node = _compose(text, place, lines=False)
        for known in [known for known in self.places if known[: len(path)] == path]:
            del self.places[known]
        self.places[path] = place
        value = alias.value(None if node is None else self._value(node, path, place))
        section: object = self.values
        for depth, key in enumerate(path, start=1):
            holder: Any = section
            at: Any = key
            if isinstance(section, list) and key.isdecimal() and int(key) < len(section):
                at = int(key)
            elif not isinstance(section, dict):
                return  # not a section in the file either, which is the problem to report
            if depth == len(path):
                holder[at] = value
            elif isinstance(holder, dict) and holder.get(at) is None:
                holder[at] = {}
                self.places[path[:depth]] = place
            section = holder[at]

    def _value(self, node: yaml.Node, path: KeyPath, fixed: Place | None) -> object:
        """The plain value of a node. Keys are placed by their lines, or all at `fixed`."""
        place = fixed or Place(self.origin.source, _line(node))
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, path, fixed)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            items = [self._value(item, (*path, str(at)), fixed) for at, item in enumerate(node.value)]
            return UNREADABLE if any(item is UNREADABLE for item in items) else items
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            try:
                return _SCALARS[node.tag](node.value)
            except (KeyError, ValueError):  # an explicit tag that the text does not match
                pass
        self._note(place, path, f"the tag {_short(node.tag)} is not read here; write the plain value")
        return UNREADABLE

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, fixed: Place | None) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            place = fixed or Place(self.origin.source, _line(key_node))
            if not isinstance(key_node, yaml.ScalarNode):
                self._note(place, path, "a key is plain text; got a list or a mapping. Write key: value")
                continue
            alias = self._new_key(mapping, path, key_node.value, place)
            if alias is not None:
                here = (*path, alias.key)
                if fixed is None:
                    self.places[here] = place
                mapping[alias.key] = alias.value(self._value(value_node, here, fixed))
        return mapping

    def _copied(self, values: Mapping[str, object], path: KeyPath) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key, value in values.items():
            # A key from Python may be anything; as text it is an unknown key, and reported.
            alias = self._new_key(mapping, path, str(key), self.origin)
            if alias is not None:
                here = (*path, alias.key)
                mapping[alias.key] = (
                    self._copied(value, here) if isinstance(value, Mapping) else alias.value(value)
                )
        return mapping

    def _new_key(self, mapping: dict[str, object], path: KeyPath, written: str, place: Place) -> Alias | None:
        """The key that is written, or None if `mapping` has it, which is noted."""
        alias = alias_at((*path, written))
        if alias.key not in mapping:
            return alias
        same = "" if written == alias.key else f"the same key as {alias.key}; "
        first = self.place((*path, alias.key))
        self._note(place, (*path, written), f"{same}given twice, first at {first}; keep one")
        return None

    def _note(self, place: Place, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(place, ".".join(map(printable, path)), message))


def split_override(text: str) -> tuple[KeyPath, str]:
    """`training.max_steps=10` to (("training", "max_steps"), "10").

    Raises:
        RecipeError: there is no `=`, or no key before it.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        _fail(override_place(text), "an override is key=value, such as training.max_steps=10")
    return tuple(key.strip().split(".")), value


def override_place(text: str) -> Place:
    """The place of an override is its own text."""
    return Place(f"override {text!r}")


def to_yaml(values: Mapping[str, object]) -> str:
    """Plain values as YAML text, in their own order, one key a line."""
    text = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)
    return str(text)


def _compose(text: str, place: Place, *, lines: bool) -> yaml.Node | None:
    """The tree of a YAML text; a problem is placed at its line, or else at `place`."""
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(", ".join(part for part in (error.context, error.problem) if part).split())
        _fail(
            Place(place.source, mark.line + 1) if lines and mark is not None else place,
            f"not a recipe: {reason}; write one plain document"
            if isinstance(error, yaml.composer.ComposerError)
            else f"not valid YAML: {reason}; check indentation, colons and quotes",
        )
    except yaml.reader.ReaderError as error:
        _fail(place, f"not valid YAML: {error.reason} (character {error.position}); remove the character")
    except RecursionError:
        _fail(place, "not a recipe: nested too deeply; a recipe has sections with keys, and no more levels")
    return node


def _short(tag: str) -> str:
    return printable(tag.replace("tag:yaml.org,2002:", "!!"))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _fail(place: Place, message: str, key: str = "") -> NoReturn:
    raise RecipeError([Problem(place, key, message)])
