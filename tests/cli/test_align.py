"""`tide align`: texts, rows and data sets, in the terminal and as files; bad input in one line."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.pages import Page
from tide.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.tiny import TinyCheckpoints


@pytest.fixture
def align(
    tiny_checkpoints: TinyCheckpoints, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Status, output and errors of the command with two tiny tokenizers."""

    def run(*arguments: str) -> tuple[int, str, str]:
        sides = ["--student", str(tiny_checkpoints.student), "--teacher", str(tiny_checkpoints.other_teacher)]
        status = main(["align", *arguments, *sides])
        return (status, *capsys.readouterr())

    return run


def test_a_text(align) -> None:
    status, out, err = align(r"return first\n")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("student [") and lines[1].startswith("teacher [")
    assert lines[0].endswith("↵]") and "100.00% of 13 bytes" in out
    assert "longest" not in out and max(map(len, lines)) <= 100


def test_a_row(align) -> None:
    status, out, _ = align('{"prompt": "def f():\\n", "completion": "    return 1"}')
    assert status == 0 and "of 12 bytes" in out
    assert out.startswith("student def") and "[def" not in out


def test_from_the_standard_input(align, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(r"a\nb"))
    status, out, _ = align("-")
    assert status == 0 and "of 4 bytes" in out  # A piped text is taken as it is.


def test_a_data_set_with_files(align, tiny_checkpoints, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(tiny_checkpoints.rows.read_text(encoding="utf-8") + '{"text": 3}\n', encoding="utf-8")
    page, plot = tmp_path / "page.html", tmp_path / "plot.png"
    status, out, _ = align("--data", str(rows), "--show", "2", "--html", str(page), "--plot", str(plot))
    assert status == 0
    assert "Rows aligned: 8 of 9" in out and "Rejected: wrong type: 1." in out and "longest chunks" in out
    assert out.count("\nteacher ") >= 2 and out.count("Only chunks are aligned") == 1
    assert f"{rows}:2" in out.replace("\n", "")
    assert plot.read_bytes()[:4] == b"\x89PNG"
    shown = Page(page.read_text(encoding="utf-8"))
    assert shown.texts["h2"] == ["Tokenizers and data", f"{rows}:1", f"{rows}:2", "The data set"]
    assert {str(rows), "9 of the 9 rows", "none"} <= set(shown.texts["dd"])
    assert shown.texts["h1"] == ["student and other_teacher"]
    assert shown.tags.count("img") == 1


def test_fewer_rows_and_merged_chunks(align, tiny_checkpoints) -> None:
    _, out, _ = align("--data", str(tiny_checkpoints.rows), "--rows", "3")
    _, merged, _ = align("--data", str(tiny_checkpoints.rows), "--rows", "3", "--chunk-merging", "words")

    def chunks(text: str) -> int:
        return int(text.split("chunks: ")[1].split(".")[0].replace(",", ""))

    assert "3 of the 8 rows of " in out and "Rows aligned: 3 of 3" in out and 0 < chunks(merged) < chunks(out)


def test_no_mask_token_is_needed(tmp_path: Path, capsys) -> None:
    from tests.tiny import make_tokenizer

    make_tokenizer(300, mask=None).save_pretrained(tmp_path)
    assert main(["align", "x", "--student", str(tmp_path), "--teacher", str(tmp_path)]) == 0
    assert "[x]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a text or row, --data SOURCE, or --recipe RECIPE.yaml; got none"),
        ([""], "got an empty one"),
        (['{"messages": []}'], "row rejected: no messages"),
        (["x <|mask|>"], "mask token in the text"),
        (["x", "--show", "1"], "--show is for rows of a data set; got only a text. Add --data"),
        (["x", "--split", "dev"], "--split needs --data"),
        (["x", "--subset", "a"], "--subset needs --data"),
        (["--data", "nowhere.jsonl"], "--data: open_source: no file or directory at 'nowhere.jsonl'"),
        (["x", "--chunk-merging", "length"], "got --chunk-merging length and no limit"),
        (
            ["x", "--chunk-max-tokens=3", "--chunk-max-bytes=9"],
            "got --chunk-merging none and --chunk-max-tokens 3 and --chunk-max-bytes 9",
        ),
        (["x", "--chunk-merging=none", "--chunk-max-bytes=9"], "got --chunk-merging none and"),
    ],
)
def test_bad_input_is_an_error_of_one_line(align, arguments: list[str], message: str) -> None:
    status, out, err = align(*arguments)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("tide align: ") and message in line


@pytest.mark.parametrize(
    ("option", "file", "message"),
    [
        ("--html", "no/such/folder/page.html", "cannot write 'no/such/folder/page.html'"),
        ("--plot", ".", "cannot write '.'"),
        ("--plot", "x.jpg", "'x.jpg': the name must end in .png"),
        ("--html", "x", "'x': the name must end in .html or .htm"),
    ],
)
def test_files_that_cannot_be_written_are_refused(align, capsys, option, file, message) -> None:
    with pytest.raises(SystemExit) as ended:
        align("x", option, file)
    last = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and last.startswith(f"tide align: error: argument {option}: {message}")


def test_options_are_checked_before_anything_loads(capsys) -> None:
    nowhere = ["--student", "no/such/folder", "--teacher", "no/such/folder"]
    assert main(["align", "x", *nowhere, "--chunk-merging=length"]) == 2
    assert "length needs --chunk-max-tokens N" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["split", "subset"])
def test_a_missing_split_or_subset_is_refused(align, tiny_checkpoints, option) -> None:
    rows = str(tiny_checkpoints.rows)
    status, out, err = align("--data", rows, f"--{option}", "test")
    assert (status, out) == (2, "")
    assert err == (
        f"tide align: --{option} test: {rows!r} has no {option}s and is read whole. Leave --{option} out.\n"
    )


def test_a_split_is_read_and_named(align, tiny_checkpoints, tmp_path: Path) -> None:
    lines = tiny_checkpoints.rows.read_text(encoding="utf-8").splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "test.jsonl").write_text("\n".join(lines[:2]), encoding="utf-8")
    status, out, _ = align("--data", str(tmp_path), "--split", "test")
    assert status == 0 and f"2 of the 2 rows of {tmp_path}, split test." in out.replace("\n", "")
    status, _, err = align("--data", str(tmp_path), "--split", "dev")
    assert status == 2 and "has no split 'dev'" in err


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"text": "a"', "it is not JSON (Expecting ',' delimiter: line 1 column 13 (char 12))"),
        (' [{"text": "a"}]', "it is JSON, but no object"),
    ],
)
def test_text_that_looks_like_json_is_read_as_text_with_a_note(align, text, fault) -> None:
    status, out, err = align(text)
    assert status == 0 and f"of {len(text)} bytes" in out
    assert err == f"tide align: read as plain text, for {fault}\n"


def test_a_missing_chat_template_is_named(tmp_path: Path, capsys) -> None:
    from tests.chat import make_chat_tokenizer

    sides = {"student": make_chat_tokenizer(), "teacher": make_chat_tokenizer()}
    sides["teacher"].chat_template = None
    for role, tokenizer in sides.items():
        tokenizer.save_pretrained(tmp_path / role)
    row = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'
    options = [f"--{role}={tmp_path / role}" for role in sides]
    assert main(["align", row, *options]) == 2
    teacher = str(tmp_path / "teacher")
    assert capsys.readouterr().err == (
        f"tide align: no working template: on the teacher's side, the tokenizer {teacher!r} "
        "has no chat template, which a conversation needs. Set tokenizer.chat_template, or give prompts and "
        "completions as plain text.\n"
    )


def test_suffixes_in_capitals_are_accepted(align, tmp_path: Path) -> None:
    assert align("x", "--html", str(tmp_path / "a.HTM"), "--plot", str(tmp_path / "b.PNG"))[0] == 0
    assert (tmp_path / "b.PNG").read_bytes()[:4] == b"\x89PNG"


def test_both_tokenizers_are_needed(tiny_checkpoints, capsys) -> None:
    assert main(["align", "x", "--student", str(tiny_checkpoints.student)]) == 2
    assert "the teacher's is not given. Add --teacher, or --recipe" in capsys.readouterr().err


def test_no_figures_without_matplotlib(align, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for name in ("histogram", "figures"):
        monkeypatch.delitem(sys.modules, f"tide.inspection.{name}", raising=False)
        monkeypatch.delattr(sys.modules["tide.inspection"], name, raising=False)
    status, out, err = align("x", "--plot", str(tmp_path / "plot.png"))
    assert (status, out) == (2, "") and 'pip install -e ".[plots]"' in err
    status, _, err = align("x", "--html", str(tmp_path / "page.html"))
    assert status == 0 and err.startswith("tide align: no figures: ")
    assert "img" not in Page((tmp_path / "page.html").read_text(encoding="utf-8")).tags


def test_rows_of_json_lines_may_be_pasted(align, tiny_checkpoints) -> None:
    for line in tiny_checkpoints.rows.read_text(encoding="utf-8").splitlines():
        status, out, _ = align(line)
        assert status == 0 and f"of {len(json.loads(line)['completion'].encode())} bytes" in out
