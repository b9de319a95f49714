"""`tide align --recipe` shows what `tide prepare` makes with the same recipe."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.chat import CONVERSATIONS, make_chat_tokenizer, make_other_chat_tokenizer
from tests.flow.recipes import tiny_values
from tests.pages import Page
from tide.cli.main import main
from tide.config import Recipe
from tide.preparation import prepare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.tiny import TinyCheckpoints


@pytest.fixture
def values(tiny_checkpoints: TinyCheckpoints, tmp_path: Path) -> dict[str, Any]:
    """A recipe with two chat models that tell the variables of their templates, and two sources."""
    given = tiny_values(tiny_checkpoints, tmp_path / "run", "tide_cross")
    tokenizers = {"student": make_chat_tokenizer(), "teacher": make_other_chat_tokenizer()}
    for role, tokenizer in tokenizers.items():
        tokenizer.chat_template = "{{ flavour }}" + tokenizer.chat_template
        tokenizer.save_pretrained(tmp_path / role)
        given[role] |= {"tokenizer": str(tmp_path / role), "template_arguments": {"flavour": f"<{role}>"}}
    chats = tmp_path / "chats.jsonl"
    chats.write_text("\n".join(map(json.dumps, CONVERSATIONS)), encoding="utf-8")
    sources = [
        {"path": str(chats), "weight": 2.0},
        {"path": str(tiny_checkpoints.rows), "answer_contains": "return"},
    ]
    given["data"] = {"sources": sources, "max_length": 400, "chunk_merging": "words"}
    return given


@pytest.fixture
def align(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Status, output and errors of the command with the recipe that the values are by then."""

    def run(*arguments: str) -> tuple[int, str, str]:
        path = tmp_path / "recipe.yaml"
        path.write_text(Recipe.from_dict(values).to_yaml(), encoding="utf-8")
        status = main(["align", *arguments, "--recipe", str(path)])
        return (status, *capsys.readouterr())

    return run


def chunks(text: str) -> int:
    return int(text.split("chunks: ")[1].split(".")[0].replace(",", ""))


def test_statistics_cover_the_rows_that_prepare_reads(align, values, tmp_path: Path) -> None:
    values["data"]["prepared"] = str(tmp_path / "prepared")
    counts = prepare(Recipe.from_dict(values), workers=1).counts
    assert counts.rows == counts.kept == 2 * 3 + 4 and not counts.cut
    page = tmp_path / "page.html"
    status, out, err = align("--show", "10", "--html", str(page))
    assert (status, err) == (0, "")
    assert chunks(out) == counts.chunks
    assert "Rows aligned: 10 of 10" in out and "10 of the 10 rows of " in out.replace("\n", " ")
    shown = Page(page.read_text(encoding="utf-8"))
    names = (
        f"{tmp_path / 'recipe.yaml'} ({', '.join(source['path'] for source in values['data']['sources'])})"
    )
    assert {names, "words", "10 of the 10 rows", str(tmp_path / "student")} <= set(shown.texts["dd"])
    headings = shown.texts["h2"][1:-1]
    assert len(headings) == 10 and len(set(headings)) == 3 + 4


def test_a_row_reads_as_the_recipes_templates_write_it(align) -> None:
    status, out, _ = align(json.dumps(CONVERSATIONS[2]))
    assert status == 0
    student, teacher = out.splitlines()[:2]
    assert student.replace(" ", "").startswith("student<student><|turn|>user")
    assert teacher.replace(" ", "").startswith("teacher<teacher><|begin|>[USER]")
    assert "rows of" not in out and "Rows aligned: 1 of 1" in out


def test_options_go_before_the_recipe(align, values, tiny_checkpoints) -> None:
    text = "if values[0] is None:\n    return first + second"
    merged = align(text)[1]
    assert chunks(align(text, "--chunk-merging", "none")[1]) > chunks(merged)
    values["data"]["chunk_merging"] = "none"
    assert chunks(align(text, "--chunk-merging", "words")[1]) == chunks(merged)
    limited = align(text, "--chunk-merging", "length", "--chunk-max-tokens", "2")[1]
    assert chunks(merged) != chunks(limited) < chunks(align(text, "--chunk-merging", "none")[1])
    code, _, error = align(text, "--chunk-max-tokens", "2")
    assert code == 2 and "got --chunk-merging none and --chunk-max-tokens 2" in error
    same = align(text, "--teacher", values["student"]["tokenizer"])[1].splitlines()
    assert same[0].removeprefix("student") == same[1].removeprefix("teacher")
    status, out, _ = align("--data", str(tiny_checkpoints.rows), "--rows", "2")
    assert status == 0 and f"2 of the 8 rows of {tiny_checkpoints.rows}." in out.replace("\n", "")


def test_a_method_within_one_vocabulary_shows_its_teacher(align, values, tiny_checkpoints) -> None:
    values["method"], values["data"]["chunk_merging"] = "tidal", "none"
    status, out, _ = align(json.dumps(CONVERSATIONS[2]))
    assert status == 0 and "<teacher>" in out.splitlines()[1].replace(" ", "")


def test_a_recipe_without_a_teacher_takes_one_by_option(align, values, tmp_path: Path) -> None:
    teacher = values["teacher"]["tokenizer"]
    values |= {"method": "none", "teacher": None}
    values["data"]["chunk_merging"] = "none"
    status, out, err = align()
    assert (status, out) == (2, "")
    assert err == (
        "tide align: expected two tokenizers, and the teacher's is not in "
        f"{tmp_path / 'recipe.yaml'}. Add --teacher, or --recipe RECIPE.yaml with both models.\n"
    )
    assert align("x", "--teacher", teacher)[0] == 0


def test_overrides_are_not_taken(align, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        align("data.num_rows=3", "some text")
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "tide align: error: align takes no overrides, such as data.num_rows=3, and one text at most; change "
        "the recipe, or use the options"
    )
    assert align("data.num_rows=3")[0] == 0, "alone it is a text"


def test_show_needs_rows(align) -> None:
    status, _, err = align("x", "--show", "1")
    assert status == 2 and "got only a text. Add --data SOURCE" in err


def test_a_missing_recipe_is_named(capsys) -> None:
    assert main(["align", "--recipe", "no/such/recipe.yaml"]) == 2
    assert "no/such/recipe.yaml" in capsys.readouterr().err
