"""Result rows on disk: one JSON file per operation, valid after every row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]

MEASURED, RED, ABSENT, NOT_REACHED = "measured", "red", "absent", "not reached"


class Store:
    """Rows of a run in `<folder>/<op>.json`; an operation's first row replaces an older file."""

    def __init__(self, folder: Path, environment: dict[str, Any]) -> None:
        self.folder = folder
        self.environment = environment
        self.rows: dict[str, list[Row]] = {}

    def add(self, row: Row) -> None:
        """Add a row and rewrite its file, so that an interrupted run keeps its rows."""
        rows = self.rows.setdefault(row["op"], [])
        rows.append(row)
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{row['op']}.json"
        beside = file.with_suffix(".json.part")
        beside.write_text(json.dumps({"environment": self.environment, "rows": rows}, indent=1) + "\n")
        beside.replace(file)


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
