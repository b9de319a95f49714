"""ARCHITECTURE.md's tree is the tree, and no file outgrows a reader."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pytest

PACKAGES = ("tide", "tide_kernels")
MAX_LINES = 400


def read_tree(document: str) -> dict[str, str]:
    """Paths and annotations of the first fenced block under "## The tree".

    Two spaces a level, a name, two spaces or more, an annotation. Folders end in "/". `*/name` is a file of
    every folder listed above beside it, those that start with "_" aside.
    """
    block = re.search(r"^## The tree$.*?^```\w*\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    assert block, "ARCHITECTURE.md: no fenced block under '## The tree'"
    tree: dict[str, str] = {}
    parents = [""]
    for line in block[1].splitlines():
        indent, name, annotation = re.fullmatch(r"( *)(\S+)(?: {2,}(\S.*))?", line).groups()
        depth, odd = divmod(len(indent), 2)
        assert not odd and depth < len(parents), f"indentation of {line!r}"
        here, folders = parents[depth], [""]
        if name.startswith("*/"):
            beside = re.compile(rf"{re.escape(here)}([^_/][^/]*/)")
            folders = [found[1] for path in tree if (found := beside.fullmatch(path))]
            name = name[2:]
        for path in (here + folder + name for folder in folders):
            assert path not in tree, f"{path} is listed twice"
            tree[path] = annotation or ""
        parents[depth + 1 :] = [here + name] if name.endswith("/") else []
    return tree


def expected_tree(files: list[PurePosixPath]) -> set[str]:
    """Top-level folders; inside the packages every folder and file but `__init__.py`, which each has."""
    folders = {f"{path.parts[0]}/" for path in files if len(path.parts) > 1}
    inside = [path for path in files if path.parts[0] in PACKAGES]
    folders |= {f"{parent}/" for path in inside for parent in path.parents if parent.name}
    return folders | {str(path) for path in inside if path.name != "__init__.py"}


@pytest.fixture(scope="module")
def documented(root: Path) -> dict[str, str]:
    return read_tree((root / "ARCHITECTURE.md").read_text())


def test_the_tree_in_the_document_is_the_tree(documented: dict[str, str], files: list[PurePosixPath]) -> None:
    expected = expected_tree(files)
    missing, surplus = sorted(expected - documented.keys()), sorted(documented.keys() - expected)
    assert (missing, surplus) == ([], []), f"ARCHITECTURE.md lacks {missing} and has {surplus} too much"


def test_every_line_of_the_tree_says_what_it_is(documented: dict[str, str]) -> None:
    assert not [path for path, annotation in documented.items() if not annotation]


def test_the_tree_is_read_as_it_is_written() -> None:
    block = [
        "a/  top",
        "  _s/   shared",
        "  x/  one",
        "    own.py",
        "  y/  2",
        "  */f.py   both",
        "b/  end",
    ]
    assert read_tree("\n".join(["# A", "## The tree", "", "```text", *block, "```", ""])) == {
        "a/": "top",
        "a/_s/": "shared",
        "a/x/": "one",
        "a/x/own.py": "",
        "a/y/": "2",
        "a/x/f.py": "both",
        "a/y/f.py": "both",
        "b/": "end",
    }


def test_the_expected_tree_goes_deep_in_the_packages_only() -> None:
    files = [PurePosixPath(p) for p in ("tide/a/b.py", "tide/a/__init__.py", "docs/x/y.md", "README.md")]
    assert expected_tree(files) == {"tide/", "tide/a/", "tide/a/b.py", "docs/"}


def test_every_package_folder_is_a_package(root: Path, files: list[PurePosixPath]) -> None:
    folders = {path.parent for path in files if path.parts[0] in PACKAGES and path.suffix == ".py"}
    assert not [str(folder) for folder in folders if not (root / folder / "__init__.py").is_file()]


def test_no_file_is_longer_than_a_reader_follows(root: Path, files: list[PurePosixPath]) -> None:
    # Tables that `make bench` writes are looked up, not read.
    results = PurePosixPath("benchmarks/results")
    texts = [path for path in files if path.suffix in {".py", ".md"} and results not in path.parents]
    lengths = {str(path): len((root / path).read_text().splitlines()) for path in texts}
    assert not {path: lines for path, lines in lengths.items() if lines > MAX_LINES}
