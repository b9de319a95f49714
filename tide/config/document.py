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

from tide.config.aliases import ALIASES
from tide.config.problem import Place, Problem, RecipeError, dotted, shown
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


for _name, _pattern in {
    "int": rf"{_INTEGER}\Z",
    "float": FLOAT_PATTERN.pattern,
    "bool": r"(?:true|True|TRUE|false|False|FALSE)\Z",
    "null": r"(?:~|null|Null|NULL|)\Z",
}.items():
    for _either in (_Loader, _Dumper):
        _either.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), None)


@dataclass
class Document:
    """Plain values (dict, list, str, int, float, bool, None) and their places.

    Attributes:
        values: nested by section, as in the file; aliases are replaced by the keys that they stand for.
        origin: the place of values without their own.
        has_lines: places are lines of `origin`.
        places: by path of keys; a path without one has that of its nearest ancestor.
        problems: of keys that are given twice; the rest is read.
    """

    values: dict[str, Any]
    origin: Place
    has_lines: bool = False
    places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Document:
        """Read a YAML file.

        Raises:
            RecipeError: no such file, not UTF-8, not YAML, empty, not a mapping.
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
        document = cls({}, origin, has_lines=True)
        values = document._read(text, ())
        if values is None:
            _fail(origin, "the recipe is empty; give at least method, student, data and training")
        if not isinstance(values, dict):
            got = shown(values)
            _fail(origin, f"a recipe is a mapping of keys to values; got {got}. Write key: value lines")
        document.values = values
        document._replace_aliases()
        return document

    @classmethod
    def from_mapping(cls, values: Mapping[str, object], origin: Place) -> Document:
        """Take plain Python values; nested mappings are copied."""
        document = cls(_copied(values), origin)
        document._replace_aliases()
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
        override = Document({}, place)
        value = override._read(text, path)
        self.problems += override.problems
        self.places = {known: at for known, at in self.places.items() if known[: len(path)] != path}
        self.places[path] = place
        holder: Any = self.values
        for depth, key in enumerate(path, start=1):
            at: Any = key
            if isinstance(holder, list) and key.isdecimal() and int(key) < len(holder):
                at = int(key)
            elif not isinstance(holder, dict):
                return  # not a section in the file either, which is the problem to report
            if depth == len(path):
                if (alias := ".".join(path)) in ALIASES:
                    holder.pop(ALIASES[alias], None)
                holder[at] = value
            elif isinstance(holder, dict) and holder.get(at) is None:
                holder[at] = {}
                self.places[path[:depth]] = place
            holder = holder[at]
        self._replace_aliases()

    def _read(self, text: str, path: KeyPath) -> object:
        """The plain value of a YAML text."""
        try:
            node = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            reason = " ".join(", ".join(part for part in (error.context, error.problem) if part).split())
            _fail(
                self._line(error.problem_mark or error.context_mark),
                f"not a recipe: {reason}; write one plain document"
                if isinstance(error, yaml.composer.ComposerError)
                else f"not valid YAML: {reason}; check indentation, colons and quotes",
            )
        except yaml.reader.ReaderError as error:
            where = f"character {error.position}"
            _fail(self.origin, f"not valid YAML: {error.reason} ({where}); remove the character")
        except RecursionError:
            _fail(self.origin, "not a recipe: nested too deeply; a recipe has sections with keys, no more")
        return None if node is None else self._value(node, path)

    def _value(self, node: yaml.Node, path: KeyPath) -> object:
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self._value(item, (*path, str(at))) for at, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            try:
                return _SCALARS[node.tag](node.value)
            except (KeyError, ValueError):  # an explicit tag that the text does not match
                pass
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        _fail(
            self._line(node.start_mark),
            f"the tag {dotted([tag])} is not read here; write the plain value",
            path,
        )

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            place, here = self._line(key_node.start_mark), (*path, key_node.value)
            if not isinstance(key_node, yaml.ScalarNode):
                _fail(place, "a key is plain text; got a list or a mapping. Write key: value", path)
            if key_node.value in mapping:
                self._note(place, here, f"given twice, first at {self.place(here)}; keep one")
                continue
            self.places[here] = place
            mapping[key_node.value] = self._value(value_node, here)
        return mapping

    def _line(self, mark: yaml.Mark | None) -> Place:
        return Place(self.origin.source, mark.line + 1) if self.has_lines and mark else self.origin

    def _replace_aliases(self) -> None:
        for name, key in ALIASES.items():
            section, alias = name.split(".")
            values = self.values.get(section)
            if not isinstance(values, dict) or alias not in values:
                continue
            value, place = values.pop(alias), self.place((section, alias))
            if key in values:
                same = f"the same key as {key}, given at {self.place((section, key))}; keep one"
                self._note(place, (section, alias), same)
                continue
            if alias == "bf16" and isinstance(value, bool):
                value = "bf16" if value else "fp32"
            values[key], self.places[section, key] = value, place

    def _note(self, place: Place, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(place, dotted(path), message))


def _copied(values: Mapping[str, object]) -> dict[str, object]:
    # A key from Python may be anything; as text it is an unknown key, and reported.
    return {
        str(key): _copied(value) if isinstance(value, Mapping) else value for key, value in values.items()
    }


def to_yaml(values: Mapping[str, object]) -> str:
    """Plain values as YAML text, in their own order, one key a line."""
    text = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)
    return str(text)


def _fail(place: Place, message: str, path: KeyPath = ()) -> NoReturn:
    raise RecipeError([Problem(place, dotted(path), message)])
