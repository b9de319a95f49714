"""The wheel holds both packages and nothing else, installs into an empty folder, and imports from there."""

from __future__ import annotations

import configparser
import email
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest
import yaml

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]

# Every module is imported with the optional packages hidden; those that need one must name the extra.
IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys
sys.path.insert(0, sys.argv[1])
sys.modules.update(dict.fromkeys(json.loads(sys.argv[2])))
import tide, tide_kernels
found = (m for p in (tide, tide_kernels) for m in pkgutil.walk_packages(p.__path__, p.__name__ + "."))
names = [m.name for m in found if m.name != "tide_kernels._native"]  # a library, not a module
from tide_kernels._shared.native import native_failure
assert not native_failure(), native_failure()
refused = {}
for name in names:
    if not name.endswith("__main__"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            refused[name] = str(error)
ours = {name: m for name, m in sys.modules.items() if name.split(".")[0] in ("tide", "tide_kernels")}
files = {name: m.__file__ for name, m in ours.items()}
print(json.dumps({"count": len(names), "refused": refused, "files": files}))
"""


@pytest.fixture(scope="module")
def wheel(root: Path, files: list[PurePosixPath], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves folders behind, and what is ignored must not slip in."""
    source = tmp_path_factory.mktemp("source")
    for path in files:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, source / path)
    out = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(out), str(source)]
    done = subprocess.run(PIP + build, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return built


def metadata(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [n for n in archive.namelist() if re.fullmatch(rf"[^/]+\.dist-info/{name}", n)]
        return archive.read(member).decode()


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path, files: list[PurePosixPath]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    (library,) = (name for name in held if name.endswith(".so"))
    assert library.startswith("tide_kernels/_native.")
    modules = {str(path) for path in files if path.parts[0] in ("tide", "tide_kernels")}
    assert held == {*modules, library}
    assert {"tide/py.typed", "tide_kernels/py.typed"} <= held


def test_the_wheel_says_what_it_is(wheel: Path, root: Path) -> None:
    header = email.message_from_string(metadata(wheel, "METADATA"))
    assert (header["Name"], header["License-Expression"]) == ("tide-distill", "Apache-2.0")
    assert header["Requires-Python"] == ">=3.10"
    assert metadata(wheel, "licenses/LICENSE") == (root / "LICENSE").read_text()
    entry_points = configparser.ConfigParser()
    entry_points.read_string(metadata(wheel, "entry_points.txt"))
    assert dict(entry_points["console_scripts"]) == {"tide": "tide.cli.main:main"}


def test_one_version_everywhere(wheel: Path, root: Path) -> None:
    import tide

    version = email.message_from_string(metadata(wheel, "METADATA"))["Version"]
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert [version, version, version] == [newest[1], citation["version"], tide.__version__]


@pytest.mark.slow
def test_it_installs_into_an_empty_folder_and_imports_from_there(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    install = ["install", "--no-deps", "--no-index", "--quiet", "--target", str(target), str(wheel)]
    subprocess.run(PIP + install, check=True, capture_output=True, timeout=120)
    # -I: neither PYTHONPATH nor the current folder may lend the checkout's modules.
    command = [sys.executable, "-I", "-c", IMPORT_EVERYTHING, str(target), json.dumps(["matplotlib"])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["count"] > 20
    assert {name for name, file in found["files"].items() if not Path(file).is_relative_to(target)} == set()
    silent = {name: error for name, error in found["refused"].items() if '".[plots]"' not in error}
    assert not silent
    assert "tide.cli.main" in found["files"]  # the command itself needs no extra
