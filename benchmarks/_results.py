"""Result rows on disk: one JSON file per operation, valid after every case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]

MEASURED, RED, ABSENT, NOT_REACHED = "measured", "red", "absent", "not reached"


def write(file: Path, content: dict[str, Any]) -> None:
    """Write JSON through a file beside it, so that an interrupted run leaves the file whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".json.part")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    beside.replace(file)


class Store:
    """Rows of a run in `<folder>/<op>.json`; an operation's first rows replace an older file."""

    def __init__(self, folder: Path, environment: dict[str, Any]) -> None:
        self.folder = folder
        self.environment = environment
        self.rows: dict[str, list[Row]] = {}

    def add(self, op: str, rows: list[Row]) -> None:
        """Add rows of an operation and rewrite its file."""
        kept = self.rows.setdefault(op, [])
        kept += rows
        write(self.folder / f"{op}.json", {"environment": self.environment, "rows": kept})


def read(folder: Path) -> tuple[dict[str, Any], list[Row]]:
    """(environment, rows) of one device's folder; every row carries the environment of its file.

    Raises:
        ValueError: the folder holds no rows.
    """
    environment: dict[str, Any] = {}
    rows: list[Row] = []
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text())
        if "rows" in content:
            environment = content["environment"]
            rows += [row | {"environment": environment} for row in content["rows"]]
    if not rows:
        raise ValueError(f"report: {folder} holds no benchmark rows; run `make bench` or `make gpu` first.")
    return environment, rows
