"""Replace functions of another package, and put them back.

Everything is checked before anything is replaced: a half-patched package would train on a mixture.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Replacement:
    """A replaced name.

    Attributes:
        where: its dotted name.
        original, replacement: the objects under it before and after; static methods as such.
        holder, name: the module or class, and the name in it.
    """

    where: str
    original: object
    replacement: object
    holder: Any = field(repr=False)
    name: str = field(repr=False)

    def found(self) -> object:
        """The object under the name now."""
        return vars(self.holder).get(self.name)


# Options and replacements by package.
_PATCHES: dict[str, tuple[dict[str, object], list[Replacement]]] = {}


def replace(
    package: str, targets: list[tuple[str, str, Callable[..., Any]]], options: dict[str, object]
) -> tuple[list[Replacement], bool]:
    """Replace all targets of a package, or none; return what is in force, and True if this call made it.

    A target is a module, "function" or "Class.static_method" in it, and a replacement. The original must have
    the parameters of the replacement without its keyword-only ones. Functions of modules are also replaced
    where other imported modules of the package hold them, under any name. A package that was patched with
    equal options stays as it is.

    Raises:
        ImportError: the package or a target's module cannot be imported.
        ValueError: a target is missing, is no static method in a class, or has other parameters.
    """
    for module, _, _ in targets:
        _import(package, module)
    earlier_options, earlier = _PATCHES.get(package, ({}, []))
    originals = {id(record.replacement): record.original for record in earlier}
    records = [record for target in targets for record in _plan(package, *target, originals)]
    if earlier and options == earlier_options and all(id(record.found()) in originals for record in records):
        return earlier, False
    for record in records:
        setattr(record.holder, record.name, record.replacement)
    _PATCHES[package] = (options, records)
    return records, True


def restore(package: str) -> list[Replacement]:
    """Put back what `replace` replaced, except what something else has replaced since. Return the rest."""
    _, records = _PATCHES.pop(package, ({}, []))
    undone = [record for record in records if record.found() is record.replacement]
    for record in undone:
        setattr(record.holder, record.name, record.original)
    return undone


def _import(package: str, module: str) -> None:
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if f"{package}.".startswith(f"{missing}."):
            raise ImportError(
                f"patch: no package {package!r} in this environment. Install the official code, or put its "
                "folder on sys.path; under another name pass patch(package=...)."
            ) from error
        if missing.startswith(f"{package}."):
            raise ImportError(
                f"patch: {package!r} has no module {missing!r}; nothing was changed. Use the version with "
                "the distillation trainers, not the library it was forked from."
            ) from error
        raise  # a dependency of the package


def _plan(
    package: str, module: str, path: str, replacement: Callable[..., Any], originals: dict[int, object]
) -> list[Replacement]:
    """The replacements of one target, checked; ``originals`` by id of what an earlier patch put there."""
    where = f"{module}.{path}"
    class_name, _, name = path.rpartition(".")
    holder: Any = vars(sys.modules[module]).get(class_name) if class_name else sys.modules[module]
    if class_name and not inspect.isclass(holder):
        raise _mismatch(f"{module} has no class {class_name}")
    found = vars(holder).get(name)
    original: Any = originals.get(id(found), found)
    if original is None:
        raise _mismatch(f"{where} does not exist")
    kind, described = (staticmethod, "a static method") if class_name else (FunctionType, "a function")
    if not isinstance(original, kind):
        raise _mismatch(f"{where} must be {described}; found {type(original).__name__}")
    parameters = inspect.signature(replacement).parameters.values()
    expected = _unannotated(p for p in parameters if p.kind is not p.KEYWORD_ONLY)
    given = _unannotated(inspect.signature(original).parameters.values())
    if given != expected:
        signatures = f"\n  expected {expected}\n  found    {given}"
        raise _mismatch(f"{where} has another signature", signatures)
    if class_name:
        return [Replacement(where, original, staticmethod(replacement), holder, name)]
    return [
        Replacement(f"{module_name}.{alias}", original, replacement, module, alias)
        for module_name, module in list(sys.modules.items())
        if f"{module_name}.".startswith(f"{package}.")
        for alias, value in list(vars(module).items())
        if originals.get(id(value), value) is original
    ]


def _unannotated(parameters: Iterable[inspect.Parameter]) -> inspect.Signature:
    return inspect.Signature([p.replace(annotation=p.empty) for p in parameters])


def _mismatch(fault: str, detail: str = "") -> ValueError:
    return ValueError(
        f"patch: {fault}; nothing was changed.{detail}\nThis version of the package cannot be patched: call "
        "the losses of tide directly, or use the version that has these functions."
    )
