"""Rows on disk: one JSON file per operation, whole after every row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]

MEASURED, RED, ABSENT, NOT_REACHED = "measured", "red", "absent", "not reached"


class Store:
    """The rows of a run under `<folder>/<op>.json`; the first row of an operation replaces an older file."""

    def __init__(self, folder: Path, environment: dict[str, Any]) -> None:
        self.folder = folder
        self.environment = environment
        self.rows: dict[str, list[Row]] = {}

    def add(self, row: Row) -> None:
        """Keep a row and write its file; an interrupted run leaves the rows it had.

        Args:
            row: with "op".
        """
        rows = self.rows.setdefault(row["op"], [])
        rows.append(row)
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{row['op']}.json"
        beside = file.with_suffix(".json.part")
        beside.write_text(json.dumps({"environment": self.environment, "rows": rows}, indent=1) + "\n")
        beside.replace(file)


def read(folder: Path) -> tuple[dict[str, Any], list[Row]]:
    """Environment and rows of one device's folder. Every row carries the environment of its file.

    Args:
        folder: that holds the JSON files of a run.

    Raises:
        ValueError: there are none.
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
