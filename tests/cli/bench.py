"""A recipe to damage, and the errors of the command that reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from tide.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


@dataclass
class Bench:
    """A good recipe over copies of the checkpoints, for a test to damage, and the command that reads it."""

    folder: Path
    values: dict[str, Any]
    capture: pytest.CaptureFixture[str]
    overrides: list[str] = field(default_factory=list)

    @property
    def student(self) -> Path:
        return self.folder / "student"

    @property
    def teacher(self) -> Path:
        return self.folder / "teacher"

    def errors(self, *options: str) -> list[str]:
        """The lines of `tide distill` on the recipe, which must be bad input."""
        path = self.folder / "recipe.yaml"
        if not path.exists():
            path.write_text(yaml.safe_dump(self.values, sort_keys=False))
        self.capture.readouterr()
        status = main(["distill", str(path), *self.overrides, *options])
        out, err = self.capture.readouterr()
        assert (status, out) == (2, "")
        lines = err.splitlines()
        assert err.endswith("\n") and all(line.startswith("tide distill: ") for line in lines), err
        assert not (self.folder / "run").exists()
        return lines
