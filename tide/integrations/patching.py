"""Replace functions of another package, and put them back.

Everything is checked before anything is replaced: a half-patched package would train on a mixture.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Target:
    """A function to replace: a module's, or a static method of a class in it.

    The original must have the parameters of ``replacement`` without its keyword-only ones.
    """

    module: str
    path: str  # "function" or "Class.static_method"
    replacement: Callable[..., Any]

    @property
    def where(self) -> str:
        return f"{self.module}.{self.path}"


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

    def in_force(self) -> bool:
        return vars(self.holder).get(self.name) is self.replacement

    def apply(self) -> None:
        setattr(self.holder, self.name, self.replacement)


# Options and replacements by package.
_PATCHES: dict[str, tuple[dict[str, object], list[Replacement]]] = {}


def replace(
    package: str, targets: list[Target], options: dict[str, object]
) -> tuple[list[Replacement], bool]:
    """Replace all targets of a package, or none.

    Functions of modules are also replaced where other imported modules of the package hold them, under any
    name.

    Args:
        package: dotted name.
        targets: what to replace.
        options: a package patched with equal options stays as it is.

    Returns:
        The replacements in force, and True if this call made them.

    Raises:
        ImportError: the package or a target's module cannot be imported.
        ValueError: a target is missing, is no static method in a class, or has other parameters.
    """
    for target in targets:
        _import(package, target.module)
    present = _PATCHES.get(package)
    if present is not None and present[0] == options:
        ours = {id(record.replacement) for record in present[1]}
        if all(id(_held(target)[2]) in ours for target in targets):
            return present[1], False
    # The checks read the originals, so an older patch is undone first and comes back if a check fails.
    undone = restore(package)
    try:
        records = [record for target in targets for record in _plan(package, target)]
    except ValueError:
        for record in undone:
            record.apply()
        if present is not None:
            _PATCHES[package] = present
        raise
    for record in records:
        record.apply()
    _PATCHES[package] = (dict(options), records)
    return records, True


def restore(package: str) -> list[Replacement]:
    """Put back what `replace` replaced, except where something else has replaced it since.

    Returns:
        What was put back.
    """
    _, records = _PATCHES.pop(package, ({}, []))
    undone = [record for record in records if record.in_force()]
    for record in undone:
        setattr(record.holder, record.name, record.original)
    return undone


def _import(package: str, module: str) -> None:
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if package == missing or package.startswith(f"{missing}."):
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


def _held(target: Target) -> tuple[Any, str, object]:
    """The module or class that holds the target, the name there, and its value (None if missing)."""
    *classes, name = target.path.split(".")
    holder: Any = sys.modules[target.module]
    for part in classes:
        holder = vars(holder).get(part)
        if not inspect.isclass(holder):
            raise _mismatch(f"{target.module} has no class {part}")
    return holder, name, vars(holder).get(name)


def _plan(package: str, target: Target) -> list[Replacement]:
    """The replacements of one target, checked."""
    holder, name, original = _held(target)
    if original is None:
        raise _mismatch(f"{target.where} does not exist")
    if inspect.isclass(holder):
        if not isinstance(original, staticmethod):
            raise _mismatch(f"{target.where} must be a static method; found {type(original).__name__}")
        _check_signature(target, original.__func__)
        return [Replacement(target.where, original, staticmethod(target.replacement), holder, name)]
    if not inspect.isfunction(original):
        raise _mismatch(f"{target.where} must be a function; found {type(original).__name__}")
    _check_signature(target, original)
    records = [Replacement(target.where, original, target.replacement, holder, name)]
    for module_name, module in list(sys.modules.items()):
        if module_name == package or module_name.startswith(f"{package}."):
            for alias, value in list(vars(module).items()):
                if value is original and (module is not holder or alias != name):
                    where = f"{module_name}.{alias}"
                    records.append(Replacement(where, original, target.replacement, module, alias))
    return records


def _check_signature(target: Target, original: Callable[..., Any]) -> None:
    """Names, kinds and defaults must agree; annotations may differ."""
    parameters = inspect.signature(target.replacement).parameters.values()
    expected, found = (
        inspect.Signature([p.replace(annotation=inspect.Parameter.empty) for p in given])
        for given in (
            [p for p in parameters if p.kind is not p.KEYWORD_ONLY],
            inspect.signature(original).parameters.values(),
        )
    )
    if found != expected:
        signatures = f"\n  expected {expected}\n  found    {found}"
        raise _mismatch(f"{target.where} has another signature", signatures)


def _mismatch(fault: str, detail: str = "") -> ValueError:
    return ValueError(
        f"patch: {fault}; nothing was changed.{detail}\nThis version of the package cannot be patched: call "
        "the losses of tide directly, or use the version that has these functions."
    )
