"""What the documents say can be followed: links, code, commands and names."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

import tide_kernels
from tide.config import load_recipe
from tide_kernels._shared.workspace import CPU_WORKSPACE_BYTES, GPU_WORKSPACE_BYTES

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = {"", ".cff", ".cfg", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}


@pytest.fixture(scope="module")
def documents(root: Path, files: list[PurePosixPath]) -> dict[str, str]:
    return {str(path): (root / path).read_text() for path in files if path.suffix == ".md"}


def python_in(document: str) -> str:
    return "\n".join(code for tag, code in FENCE.findall(document) if tag == "python")


def anchors(document: str) -> set[str]:
    """Fragments of the headings, as hosts make them: lower case, hyphens for spaces, no punctuation."""
    headings = re.findall(r"^#{1,6} +(.+?) *$", FENCE.sub("", document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(name: str, documents: dict[str, str], files: list[PurePosixPath]) -> list[str]:
    """Relative targets in a document that are no file or folder of the project, or name no heading."""
    known = {str(path) for path in files} | {str(parent) for path in files for parent in path.parents}
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", documents[name]))
    targets = re.findall(r"\]\(<?([^)\s>]+)>?(?: [^)]*)?\)", text)
    targets += re.findall(r'(?:src|href)="([^"]+)"', text)
    broken = []
    for target in (t for t in targets if not re.match(r"[a-z][a-z+.-]*:", t)):
        file, _, fragment = target.partition("#")
        path = os.path.normpath(PurePosixPath(name).parent / file) if file else name
        if path not in known or (fragment and fragment not in anchors(documents.get(path, ""))):
            broken.append(target)
    return broken


def test_the_documents_of_a_project_are_there(documents: dict[str, str]) -> None:
    expected = {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/glossary.md"}
    assert expected <= documents.keys()


def test_every_relative_link_resolves(documents: dict[str, str], files: list[PurePosixPath]) -> None:
    broken = {name: broken_links(name, documents, files) for name in documents}
    assert not {name: links for name, links in broken.items() if links}


def test_a_broken_link_is_found() -> None:
    right = '# A `b`, c\n[](#a-b-c) [](../d) [e](../d/f.py "e") [](https://x.y) `[](q)`\n```\n[](r)\n```\n'
    wrong = '[](gone.md) ![](g.md#z) <img src="no.png"> [](../../out)'
    files = [PurePosixPath("docs/g.md"), PurePosixPath("d/f.py")]
    links = broken_links("docs/g.md", {"docs/g.md": right + wrong}, files)
    assert links == ["gone.md", "g.md#z", "../../out", "no.png"]


# Each document's program in a module of its own: a name or an import of another does not count.
RUN_EACH = """
import json
for name, program in json.load(open("programs.json")).items():
    exec(compile(program, name, "exec"), {"__name__": "__main__"})
"""


def test_python_in_the_documents_runs(documents: dict[str, str], root: Path, tmp_path: Path) -> None:
    assert "tide.losses" in python_in(documents["README.md"])
    # README sends those who look for these options to this page.
    assert {"student_bias", "student_softcap", "student_logit_scale"} <= set(
        re.findall(r"\w+(?==)", python_in(documents["docs/kernels/hidden.md"]))
    )
    programs = {name: program for name, text in documents.items() if (program := python_in(text))}
    (tmp_path / "programs.json").write_text(json.dumps(programs))
    done = subprocess.run(
        [sys.executable, "-c", RUN_EACH],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr


def test_make_targets_in_the_documents_exist(documents: dict[str, str], root: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))
    commands = re.compile(r"(?:`|^|\$ )make ([a-z]+)", re.MULTILINE)
    named = {target for text in documents.values() for target in commands.findall(text)}
    assert {"quickstart", "test"} <= named <= targets


def test_names_of_ours_in_the_documents_exist(documents: dict[str, str]) -> None:
    unknown = []
    for document, text in documents.items():
        # A changelog names what was, too.
        for name in re.findall(r"`(tide(?:_kernels)?(?:\.\w+)+)", text) if document != "CHANGELOG.md" else []:
            try:
                pkgutil.resolve_name(name)
            except (ImportError, AttributeError):
                unknown.append(f"{document}: {name}")
    assert not unknown


def test_the_shared_docstring_gives_the_workspace_of_the_code() -> None:
    text = " ".join((tide_kernels.linear_interpolated_kl.__doc__ or "").split())
    sizes = re.findall(r"(\d+) MiB on CPU and (\d+) MiB on a GPU", text)
    assert [tuple(int(size) << 20 for size in pair) for pair in sizes] == [
        (CPU_WORKSPACE_BYTES, GPU_WORKSPACE_BYTES)
    ]


RECIPE = re.compile(r"^```yaml\n(method:.*?)^```$", re.MULTILINE | re.DOTALL)


def test_recipes_in_the_documents_load(documents: dict[str, str], tmp_path: Path) -> None:
    recipes = [text for document in documents.values() for text in RECIPE.findall(document)]
    assert recipes
    for text in recipes:
        (tmp_path / "recipe.yaml").write_text(text)
        load_recipe(tmp_path / "recipe.yaml")


def test_nothing_names_a_path_of_one_machine(root: Path, files: list[PurePosixPath]) -> None:
    # "~" and "$HOME" mean the reader's own; an absolute home, scratch or mount means the writer's.
    private = re.compile(r"(?<![\w.~}$/-])/(?:home|mnt|opt|root|scratch|tmp|Users|work)/\w[\w./-]*")
    assert private.findall("x = '/" + "home/me/x.py', ~/tmp/y, a/work/b, $HOME/work/z") == [
        "/home" + "/me/x.py"
    ]
    named = {}
    for path in (p for p in files if p.suffix in TEXT or p.parts[:2] == ("benchmarks", "results")):
        if found := private.findall((root / path).read_text(errors="replace")):
            named[str(path)] = found
    assert not named
