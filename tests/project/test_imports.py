"""Imports go one way, and only to what is declared. The contracts are in pyproject.toml."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path, PurePosixPath

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LAYERS = "Imports in tide go down the layers"
ALONE = "tide_kernels stands alone"
REACH = "Only losses, sampling, evaluation and integrations reach the vocabulary axis"
DROP_INS = "Drop-ins are for other code bases, and imported by none of ours"
OPS = "Hidden-in ops stand on logits-in ops"


def lint_imports(folder: Path) -> tuple[int, str]:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    # The report wraps at the width it finds: one line makes it searchable.
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_the_contracts_are_kept(root: Path) -> None:
    status, report = lint_imports(root)
    assert status == 0, report


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("tide/losses/__init__.py", "import tide.masking", LAYERS),  # a sibling
        ("tide/data/__init__.py", "import tide.training", LAYERS),  # upwards
        ("tide/batch.py", "import tide.config", LAYERS),
        ("tide/stray.py", "", LAYERS),  # a module that no layer places
        ("tide/training/__init__.py", "import tide_kernels", REACH),
        ("tide/pipeline.py", "import tide.integrations.dllm", DROP_INS),
        ("tide_kernels/_shared/__init__.py", "import tide.batch", ALONE),
        ("tide_kernels/divergence/__init__.py", "import tide_kernels.linear_divergence", OPS),
    ],
)
def test_a_planted_import_breaks_its_contract(
    root: Path, tmp_path: Path, module: str, statement: str, contract: str
) -> None:
    for package in ("tide", "tide_kernels"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a") as file:
        file.write(f"\n{statement}\n")
    status, report = lint_imports(tmp_path)
    assert status == 1
    assert re.search(rf"{re.escape(contract)}[^A-Z]* BROKEN", report), report


def imported(path: Path) -> set[str]:
    """Top-level names of a file's absolute imports, wherever in the file they are."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).split(".")[0])
    return names - set(sys.stdlib_module_names)


def declared(root: Path) -> set[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + [r for e in project["optional-dependencies"].values() for r in e]
    return {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}


def test_every_import_is_declared(root: Path, files: list[PurePosixPath]) -> None:
    ours = {"benchmarks", "examples", "tests", "tide", "tide_kernels"}
    distributions = packages_distributions()
    allowed = declared(root)
    undeclared = {}
    for path in (p for p in files if p.suffix == ".py"):
        names = imported(root / path) - ours
        if foreign := {n for n in names if not allowed & {d.lower() for d in distributions.get(n, [n])}}:
            undeclared[str(path)] = foreign
    assert not undeclared


def test_tide_kernels_needs_torch_and_triton_alone(root: Path, files: list[PurePosixPath]) -> None:
    modules = [path for path in files if path.parts[0] == "tide_kernels" and path.suffix == ".py"]
    needed = set().union(*(imported(root / path) for path in modules))
    # jaxtyping writes shapes in annotations; its names are imported for type checkers only.
    assert needed <= {"tide_kernels", "torch", "triton", "jaxtyping"}


def test_losses_bring_in_torch_and_nothing_heavier(root: Path) -> None:
    """Someone with a training loop of their own imports `tide.losses` alone."""
    heavier = ("accelerate", "matplotlib", "tokenizers", "transformers")
    code = f"import sys, tide.losses; print([n for n in {heavier} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
