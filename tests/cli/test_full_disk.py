"""A disk that is full, or fills, or cannot be written: one line with path and space, nothing half."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.flow.recipes import tiny_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tiny import TinyCheckpoints

# In a mount namespace of its own: [disk, recipe, student] -> per command its status, errors and files.
PROGRAM = """
import contextlib, io, json, os, shutil, subprocess, sys
from pathlib import Path
from tide.cli.main import main

disk, recipe, student = sys.argv[1:]
place = Path(disk, "new")
commands = {
    "prepare": ["prepare", recipe, f"data.prepared={place}/p", "--workers=1"],
    "distill": ["distill", recipe, f"training.output_dir={place}/r", "training.disable_tqdm=true"],
    "check": ["distill", recipe, f"training.output_dir={place}/r", "--check"],
    "convert": ["convert", student, f"{place}/c", "--mask-token=<|new|>"],
}
found = {}
for state in ("full", "fills", "read-only"):
    filler = Path(disk, "filler")
    for name, command in commands.items():
        if state != "read-only":
            filler.write_bytes(b"")
            room = os.statvfs(disk)
            filler.write_bytes(bytes(room.f_bavail * room.f_bsize - (50_000 if state == "fills" else 0)))
        elif os.access(disk, os.W_OK):
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            status = main(command)
        lines = [line for line in errors.getvalue().splitlines() if line.startswith("tide ")]
        left = sorted(path.name for path in place.rglob("*") if path.is_file())
        found[f"{name} {state}"] = status, lines, left
        shutil.rmtree(place, ignore_errors=True)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_full_disks_and_read_only_ones(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=256k none {tmp_path}/disk"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no file system of a chosen size can be mounted here")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_recipe(tiny_checkpoints, tmp_path / "run").to_yaml())
    arguments = [sys.executable, "-c", PROGRAM, tmp_path / "disk", recipe, tiny_checkpoints.student]
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    # These fit into what is left.
    assert found.pop("prepare fills")[0] == found.pop("check fills")[0] == 0
    for case, (status, lines, left) in found.items():
        assert status == 2 and len(lines) == 1, (case, status, lines)
        reason = "Read-only file system" if "read-only" in case else "No space left on device"
        assert f"cannot write '{tmp_path}/disk/new" in lines[0] and f"{reason}, 0 MiB free" in lines[0], case
        assert "model.safetensors" not in left and (left == [] or case == "distill fills"), (case, left)
