"""Text that every machine has: the functions of the standard library of the Python that runs this.

A row is a function: its signature is the prompt, its docstring and body are the completion. Modules are held
out by a hash of their name, so no version of Python trains on what another evaluates.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
import textwrap
from pathlib import Path
from typing import NamedTuple

# Absent from some distributions of Python.
_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "ensurepip", "turtledemo"}
_LEFT_OUT |= {"site-packages", "dist-packages", "__pycache__"}
_MIN_BYTES, _MAX_BYTES = 96, 1600


class FunctionRow(NamedTuple):
    """A function of the standard library. `module` is its top-level module."""

    module: str
    prompt: str
    completion: str


def is_held_out(module: str, *, share: float = 0.1) -> bool:
    """Return True for a fixed share of top-level modules, by their names alone."""
    digest = hashlib.sha256(module.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < share


def split_functions() -> tuple[list[FunctionRow], list[FunctionRow]]:
    """(train, held out): functions of moderate size, in order of path and line, each text once."""
    root = Path(sysconfig.get_paths()["stdlib"])
    rows: dict[str, FunctionRow] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if _LEFT_OUT.isdisjoint(parts) and not parts[0].startswith(("_sysconfigdata", "config-")):
            module = parts[0].removesuffix(".py")
            for prompt, completion in functions_in(path):
                rows.setdefault(prompt + completion, FunctionRow(module, prompt, completion))
    train = [row for row in rows.values() if not is_held_out(row.module)]
    return train, [row for row in rows.values() if is_held_out(row.module)]


def write_rows(rows: list[FunctionRow], path: Path) -> None:
    """Write rows as JSON lines, which `tide distill` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in rows)


def functions_in(path: Path) -> list[tuple[str, str]]:
    """(signature, rest) of every function of moderate size; none if the file does not parse."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # Data files with a .py name, or another encoding.
        return []
    lines = [f"{line}\n" for line in source.split("\n")]  # As ast counts them: form feeds end no line.
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    found = []
    for node in functions:
        start, body = node.lineno - 1, node.body[0].lineno - 1
        while body > start + 1 and lines[body - 1].lstrip().startswith("#"):
            body -= 1  # A comment before the first statement belongs to the body.
        text = textwrap.dedent("".join(lines[start : node.end_lineno])).rstrip("\n") + "\n"
        split = [f"{line}\n" for line in text[:-1].split("\n")]
        prompt, completion = "".join(split[: body - start]), "".join(split[body - start :])
        is_moderate = _MIN_BYTES <= len(text.encode()) <= _MAX_BYTES
        if body > start and is_moderate and completion.strip() and prompt.rstrip().endswith(":"):
            found.append((prompt, completion))
    return found
