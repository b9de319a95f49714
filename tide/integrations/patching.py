"""Replacing functions of another package, and putting them back.

Nothing is replaced before everything is checked: a package that is half patched would train on a mixture.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Target:
    """One function to replace: a module's, or a static method of a class in it.

    ``replacement`` has the parameters that the original must have; keyword-only ones are its own.
    """

    module: str
    path: str  # "function" or "Class.static_method"
    replacement: Callable[..., Any]

    @property
    def where(self) -> str:
        return f"{self.module}.{self.path}"


@dataclass(frozen=True)
class Replacement:
    """One name that was replaced.

    ``where`` is its dotted name; ``original`` and ``replacement`` are the objects that the module or class
    holds under it, static methods as such.
    """

    where: str
    original: object
    replacement: object


@dataclass(frozen=True)
class _Change:
    holder: Any
    name: str
    record: Replacement

    def in_force(self) -> bool:
        return vars(self.holder).get(self.name) is self.record.replacement

    def apply(self) -> None:
        setattr(self.holder, self.name, self.record.replacement)


@dataclass(frozen=True)
class _Patch:
    options: dict[str, object]
    changes: list[_Change]


_PATCHES: dict[str, _Patch] = {}


def replace(
    package: str, targets: list[Target], options: dict[str, object]
) -> tuple[list[Replacement], bool]:
    """Replace all targets, or none.

    Functions of modules are also replaced where other imported modules of the package hold them, under any
    name.

    Args:
        package: dotted name of the package.
        targets: what to replace.
        options: what distinguishes this patch from another of the same package.

    Returns:
        One record per replaced name, and whether this call replaced anything: with equal options a package
        that is patched stays as it is.

    Raises:
        ImportError: the package or a target's module cannot be imported.
        ValueError: a target is missing, is no static method in a class, or has other parameters.
    """
    for target in targets:
        _import(package, target.module)
    present = _PATCHES.get(package)
    if present is not None and present.options == options:
        ours = {id(change.record.replacement) for change in present.changes}
        if all(id(_held(target)[2]) in ours for target in targets):
            return [change.record for change in present.changes], False
    # Originals can be checked only where they are: a patch with other options steps aside, and comes back if
    # a check fails.
    standing = [change for change in present.changes if change.in_force()] if present else []
    restore(package)
    try:
        changes = [change for target in targets for change in _plan(package, target)]
    except ValueError:
        for change in standing:
            change.apply()
        if present is not None:
            _PATCHES[package] = present
        raise
    for change in changes:
        change.apply()
    _PATCHES[package] = _Patch(dict(options), changes)
    return [change.record for change in changes], True


def restore(package: str) -> list[Replacement]:
    """Put back what ``replace`` replaced, where nothing else has replaced it since.

    Args:
        package: dotted name of the package.

    Returns:
        One record per name put back.
    """
    present = _PATCHES.pop(package, None)
    undone = [change for change in present.changes if change.in_force()] if present else []
    for change in undone:
        setattr(change.holder, change.name, change.record.original)
    return [change.record for change in undone]


def _import(package: str, module: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if package == missing or package.startswith(f"{missing}."):
            raise ImportError(
                f"patch: no package {package!r} in this environment. Install the official code, or put its "
                "folder on sys.path; under another name pass patch(package=...)."
            ) from error
        if missing.startswith(f"{package}."):
            raise ImportError(
                f"patch: {package!r} has no module {missing!r}; nothing was changed. It has to be the "
                "version with the distillation trainers, not the library it was forked from."
            ) from error
        raise  # a dependency of the package: its own message says more


def _held(target: Target) -> tuple[Any, str, object]:
    """The module or class that holds the target, the name there, and what it holds (None if nothing)."""
    *classes, name = target.path.split(".")
    holder: Any = sys.modules[target.module]
    for part in classes:
        holder = vars(holder).get(part)
        if not inspect.isclass(holder):
            raise ValueError(
                f"patch: {target.module} has no class {part}; nothing was changed. This version of the "
                "package is not one that can be patched: call the losses of tide directly."
            )
    return holder, name, vars(holder).get(name)


def _plan(package: str, target: Target) -> list[_Change]:
    holder, name, held = _held(target)
    if held is None:
        raise ValueError(
            f"patch: {target.where} does not exist; nothing was changed. This version of the package is not "
            "one that can be patched: call the losses of tide directly."
        )
    in_class = inspect.isclass(holder)
    if in_class != isinstance(held, staticmethod) or not (in_class or inspect.isfunction(held)):
        raise ValueError(
            f"patch: {target.where} must be a {'static method' if in_class else 'function'}; found "
            f"{type(held).__name__}. Nothing was changed."
        )
    _check_signature(target, held.__func__ if isinstance(held, staticmethod) else held)
    replacement = staticmethod(target.replacement) if in_class else target.replacement
    changes = [_Change(holder, name, Replacement(target.where, held, replacement))]
    if in_class:
        return changes
    for module_name, module in list(sys.modules.items()):
        if module_name == package or module_name.startswith(f"{package}."):
            for alias, value in list(vars(module).items()):
                if value is held and (module is not holder or alias != name):
                    record = Replacement(f"{module_name}.{alias}", held, replacement)
                    changes.append(_Change(module, alias, record))
    return changes


def _check_signature(target: Target, original: Any) -> None:
    expected = [
        parameter
        for parameter in inspect.signature(target.replacement).parameters.values()
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    found = list(inspect.signature(original).parameters.values())

    # Annotations say nothing about how a function is called.
    def calls(parameters: list[inspect.Parameter]) -> list[tuple[object, ...]]:
        return [(p.name, p.kind, p.default) for p in parameters]

    if calls(found) != calls(expected):
        raise ValueError(
            f"patch: {target.where} has another signature than the one this patch is for; nothing was "
            f"changed.\n  expected {_shown(expected)}\n  found    {_shown(found)}\n"
            "Call the losses of tide directly, or use the version of the package that has it."
        )


def _shown(parameters: list[inspect.Parameter]) -> str:
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(inspect.Signature(bare))
