"""Real text that every machine has: the functions of the Python standard library that runs this code.

A row is a function: its signature is the prompt, its docstring and body are the completion. Whole modules are
held out by a hash of their name, so no version of Python ever trains on what another evaluates.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
import textwrap
from pathlib import Path
from typing import NamedTuple

# Tests, editors and bundled copies are absent from some distributions of Python.
_LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "ensurepip",
    "turtledemo",
    "site-packages",
    "dist-packages",
    "__pycache__",
}
_MIN_BYTES, _MAX_BYTES = 96, 1600


class FunctionRow(NamedTuple):
    """A function of the standard library. `module` is its top-level module."""

    module: str
    prompt: str
    completion: str


def is_held_out(module: str, *, share: float = 0.1) -> bool:
    """Whether a top-level module is held out: a fixed property of its name."""
    digest = hashlib.sha256(module.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < share


def standard_library_functions() -> list[FunctionRow]:
    """Functions and methods of moderate size, in order of path and line, each text once."""
    root = Path(sysconfig.get_paths()["stdlib"])
    rows: dict[str, FunctionRow] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if _LEFT_OUT.isdisjoint(parts) and not parts[0].startswith(("_sysconfigdata", "config-")):
            module = parts[0].removesuffix(".py")
            for prompt, completion in _functions(path):
                rows.setdefault(prompt + completion, FunctionRow(module, prompt, completion))
    return list(rows.values())


def split_functions() -> tuple[list[FunctionRow], list[FunctionRow]]:
    """(train, held out), by module name."""
    rows = standard_library_functions()
    return [row for row in rows if not is_held_out(row.module)], [
        row for row in rows if is_held_out(row.module)
    ]


def write_rows(rows: list[FunctionRow], path: Path) -> None:
    """Writes rows as the JSON lines that `tide distill` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in rows)


def _functions(path: Path) -> list[tuple[str, str]]:
    """(signature, rest) of every function of moderate size; none from a file that does not parse."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # Data files with a .py name, or another encoding.
        return []
    lines = [f"{line}\n" for line in source.split("\n")]  # As ast counts them: form feeds end no line.
    found = []
    for node in ast.walk(tree):
        if (
            not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            or node.body[0].lineno == node.lineno
        ):
            continue
        first_body_line = node.body[0].lineno - 1
        while first_body_line > node.lineno and lines[first_body_line - 1].lstrip().startswith("#"):
            first_body_line -= 1  # A comment before the first statement belongs to the body.
        text = textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno]))
        num_prompt_lines = first_body_line - (node.lineno - 1)
        split = [f"{line}\n" for line in text.rstrip("\n").split("\n")]
        prompt, completion = "".join(split[:num_prompt_lines]), "".join(split[num_prompt_lines:])
        if (
            _MIN_BYTES <= len(text.encode()) <= _MAX_BYTES
            and completion.strip()
            and prompt.rstrip().endswith(":")
        ):
            found.append((prompt, completion if completion.endswith("\n") else completion + "\n"))
    return found
