"""Chat templates in preparation: their variables, and what is wrong with one before any row is made."""

from __future__ import annotations

import json
import warnings

import pytest

from tests.chat import CONVERSATIONS, make_chat_tokenizer, make_other_chat_tokenizer
from tests.flow.recipes import tiny_values
from tide.config import Recipe
from tide.preparation import held_out_examples, load_tokenizers, prepare, training_data

DATED = "{% if date is defined %}<|turn|>system\n{{ date }}<|end_turn|>\n{% endif %}"


@pytest.fixture
def chats(tiny_checkpoints, tmp_path):
    """A recipe of two chat models whose templates know a `date`, and conversations."""
    for name, tokenizer in (("student", make_chat_tokenizer()), ("teacher", make_other_chat_tokenizer())):
        tokenizer.chat_template = DATED + tokenizer.chat_template
        tokenizer.save_pretrained(tmp_path / name)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, CONVERSATIONS)))

    def recipe(student=(), teacher=(), **data) -> Recipe:
        values = tiny_values(tiny_checkpoints, tmp_path / "run", "tide_cross")
        for name, arguments in (("student", student), ("teacher", teacher)):
            values[name] |= {"tokenizer": str(tmp_path / name), "template_arguments": dict(arguments)}
        values["data"] |= {
            "train": str(rows),
            "held_out": None,
            "max_length": 256,
            "teacher_max_length": 256,
            **data,
        }
        return Recipe.from_dict(values)

    return recipe


def texts(recipe: Recipe) -> tuple[str, str]:
    """The first example as both sides read it."""
    tokenizers = load_tokenizers(recipe)
    example = training_data(recipe, tokenizers).examples[0]
    return (
        tokenizers.student.decode(example.student.token_ids),
        tokenizers.teacher.decode(example.teacher.token_ids),
    )


def test_each_template_gets_its_own_variables(chats):
    plain = texts(chats())
    assert "26 July" not in "".join(plain)
    student, teacher = texts(chats(student={"date": "26 July"}.items()))
    assert "system\n26 July<|end_turn|>" in student and teacher == plain[1]
    student, teacher = texts(chats(teacher={"date": "26 July"}.items()))
    assert student == plain[0] and "26 July" in teacher


def test_held_out_rows_get_the_student_s(chats, tmp_path):
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps(CONVERSATIONS[1]))
    recipe = chats(student={"date": "26 July"}.items(), held_out=str(held_out))
    tokenizers = load_tokenizers(recipe)
    (example,) = held_out_examples(recipe, tokenizers)
    assert "26 July" in tokenizers.student.decode(example.student.token_ids)


def test_shards_made_with_other_variables_are_refused(chats, tmp_path):
    place = str(tmp_path / "prepared")
    made = chats(student={"date": "26 July"}.items(), prepared=place)
    manifest = prepare(made, workers=1)
    assert manifest.plan.options["student_template_arguments"] == {"date": "26 July"}
    assert len(training_data(made, load_tokenizers(made)).examples) == len(CONVERSATIONS)
    other = chats(student={"date": "27 July"}.items(), prepared=place)
    with pytest.raises(ValueError, match="was made with student_template_arguments"):
        training_data(other, load_tokenizers(other))
    with pytest.raises(ValueError, match=r"prepared with other .*student_template_arguments\.date"):
        prepare(other, workers=1)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_missing_template_is_found_before_a_shard_is_written(chats, tmp_path, side):
    recipe = chats(prepared=str(tmp_path / "prepared"))
    tokenizer = make_chat_tokenizer()
    tokenizer.chat_template = None
    for file in (tmp_path / side).iterdir():
        file.unlink()
    tokenizer.save_pretrained(tmp_path / side)
    with pytest.raises(ValueError, match="chat template"):
        prepare(recipe, workers=2)
    assert not (tmp_path / "prepared").exists()
    with pytest.raises(ValueError, match="chat template"):
        training_data(chats(), load_tokenizers(chats()))


def test_only_python_answers_are_taken(chats, tmp_path):
    recipe = chats(train=None, sources=[{"path": str(tmp_path / "rows.jsonl"), "answer_contains": "print("}])
    tokenizers = load_tokenizers(recipe)
    data = training_data(recipe, tokenizers)
    assert (data.counts.rows, len(data.examples)) == (1, 1)
    assert "print(" in tokenizers.student.decode(data.examples[0].student.token_ids)
    prepared = chats(
        train=None,
        sources=[{"path": str(tmp_path / "rows.jsonl"), "answer_contains": "print("}],
        prepared=str(tmp_path / "prepared"),
    )
    manifest = prepare(prepared, workers=1)
    assert manifest.plan.sources[0]["rows"] == 1 and manifest.plan.sources[0]["answer_contains"] == "print("


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_name_that_the_template_never_reads_is_found_before_a_shard_is_written(chats, tmp_path, side):
    wrong = {side: {"dat": "26 July"}.items()}
    message = rf"{side}\.template_arguments: the chat template never reads dat\. It reads date\."
    with pytest.raises(ValueError, match=message):
        prepare(chats(**wrong, prepared=str(tmp_path / "prepared")), workers=1)
    assert not (tmp_path / "prepared").exists()
    # A first row that is unfit hides nothing.
    (tmp_path / "rows.jsonl").write_text("{broken\n" + "\n".join(map(json.dumps, CONVERSATIONS)))
    with pytest.raises(ValueError, match=message):
        training_data(chats(**wrong), load_tokenizers(chats()))


def test_a_template_that_reads_the_clock_is_warned_of(chats, tmp_path):
    tokenizer = make_chat_tokenizer()
    tokenizer.chat_template = "{{ date | default(strftime_now('%Y')) }}" + tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path / "student")
    with pytest.warns(
        UserWarning, match=r"student\.template_arguments: .* reads the current date .* it reads date\."
    ):
        prepare(chats(prepared=str(tmp_path / "clock")), workers=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        prepare(chats(student={"date": "1"}.items(), prepared=str(tmp_path / "fixed")), workers=1)
