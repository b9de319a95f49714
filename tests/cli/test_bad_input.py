"""Bad input to `tide distill`: status 2, a line for each problem with its remedy, before weights are read."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.tiny import ROWS, make_tokenizer, write_rows
from tide.cli.main import main
from tide.disk import one_writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.bench import Bench


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def unknown_key(bench: Bench) -> None:
    bench.values["training"]["max_step"] = bench.values["training"].pop("max_steps")


def wrong_type(bench: Bench) -> None:
    bench.values["training"]["batch_size"] = "many"


def unknown_method(bench: Bench) -> None:
    bench.values["method"] = "tide_share"


def teacher_that_trains(bench: Bench) -> None:
    bench.values["teacher"]["trainable"] = True


def blocks_that_do_not_fill(bench: Bench) -> None:
    bench.values["data"]["max_length"] = 50


def no_teacher(bench: Bench) -> None:
    bench.values["teacher"] = None


def no_data(bench: Bench) -> None:
    (bench.folder / "rows.jsonl").unlink()


def broken_line(bench: Bench) -> None:
    path = bench.folder / "rows.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2][:-4], *lines[3:]]))


def prompt_without_completion(bench: Bench) -> None:
    (bench.folder / "rows.jsonl").write_text('{"prompt": "def f():"}\n')


def prompts_that_fill_everything(bench: Bench) -> None:
    (bench.folder / "rows.jsonl").write_text(json.dumps({"prompt": "x, " * 100, "completion": "y"}))


def student_without_mask(bench: Bench) -> None:
    make_tokenizer(300, mask=None).save_pretrained(bench.student)


def teacher_without_mask(bench: Bench) -> None:
    make_tokenizer(300, mask=None).save_pretrained(bench.teacher)


def student_without_end(bench: Bench) -> None:
    make_tokenizer(300, end=None).save_pretrained(bench.student)


def mask_in_the_text(bench: Bench) -> None:
    write_rows(bench.folder / "rows.jsonl", [*ROWS[:2], type(ROWS[0])("x", "a <|mask|> b")])


def no_held_out(bench: Bench) -> None:
    bench.values["data"]["held_out"] = str(bench.folder / "held_out.jsonl")


def chunks_of_one_tokenizer(bench: Bench) -> None:
    bench.values["masking"]["student_masking"] = "chunks"


def no_checkpoint(bench: Bench) -> None:
    shutil.rmtree(bench.teacher)


def no_tokenizer(bench: Bench) -> None:
    for path in bench.student.glob("tokenizer*"):
        path.unlink()


def broken_tokenizer(bench: Bench) -> None:
    path = bench.student / "tokenizer.json"
    path.write_text(path.read_text()[:1000])


def broken_config(bench: Bench) -> None:
    (bench.teacher / "config.json").write_text('{"model_type": ')


def other_architecture(bench: Bench) -> None:
    edit_json(bench.student / "config.json", model_type="bert2")


def no_weights(bench: Bench) -> None:
    (bench.student / "model.safetensors").unlink()


def cut_weights(bench: Bench) -> None:
    path = bench.teacher / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def no_weights_at_all(bench: Bench) -> None:
    (bench.teacher / "model.safetensors").write_bytes(b"")


def missing_shard(bench: Bench) -> None:
    (bench.teacher / "model.safetensors").rename(bench.teacher / "model-00001-of-00002.safetensors")
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (bench.teacher / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def unknown_tracker(bench: Bench) -> None:
    bench.values["training"]["report_to"] = ["nosuch"]


def missing_tracker(bench: Bench) -> None:
    bench.values["training"]["report_to"] = ["clearml"]


def different_tokenizers(bench: Bench) -> None:
    make_tokenizer(300, words=False).save_pretrained(bench.teacher)


def more_tokens_than_embeddings(bench: Bench) -> None:
    bench.values["student"]["tokenizer"] = str(bench.folder / "wide")
    make_tokenizer(320).save_pretrained(bench.folder / "wide")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (wrong_type, "training.batch_size: expected a whole number of at least 1, got 'many'"),
        (unknown_method, "method: expected one of none, kl, .*, got 'tide_share'; nearest: tide_shared"),
        (
            teacher_that_trains,
            "teacher.trainable: the teacher is frozen, got true; leave trainable out",
        ),
        (
            blocks_that_do_not_fill,
            "masking.block_size 8 does not divide the length 50; set the length to 48 or 56",
        ),
        (no_teacher, "method kl needs a teacher; add teacher: with its path, or set method: none"),
        (no_data, r"no file or directory at '.*rows\.jsonl'\. Correct the path\."),
        (
            prompt_without_completion,
            r"\(no known keys 1\)\. .*l:1: no known keys: .*, or text\. Correct the data\.$",
        ),
        (
            prompts_that_fill_everything,
            r"none of 1 rows .*\(nothing to learn within max_length 1\)\. .*raise data\.max_length",
        ),
        (student_without_mask, "tokenizer at '.*student' has no mask token.* add one .*resize_token_emb"),
        (teacher_without_mask, "teacher.contract: .* the mask id must be known.* record mask_token_id"),
        (student_without_end, r"student's tokenizer has no end-of-text token, .* Set its eos_token\."),
        (no_held_out, r"no file or directory at '.*held_out\.jsonl'\. Correct the path\."),
        (
            chunks_of_one_tokenizer,
            "masking.student_masking: 'chunks' needs .* set method: calm or tide_cross",
        ),
        (no_checkpoint, "no folder '.*teacher' here. Give a folder saved by save_pretrained"),
        (no_tokenizer, "no readable tokenizer at '.*student' .*Give a folder with tokenizer.json"),
        (broken_tokenizer, "no readable tokenizer at '.*student' .*Give a folder with tokenizer.json"),
        (broken_config, "no readable config.json at '.*teacher' .*Give a folder saved by save_pretrained"),
        (other_architecture, "'.*student' cannot be loaded: model_type 'bert2'; supported are .*Convert"),
        (no_weights, "weights at '.*student' cannot be read .*Copy or download the checkpoint again"),
        (cut_weights, "weights at '.*teacher' cannot be read .*Copy or download the checkpoint again"),
        (no_weights_at_all, "weights at '.*teacher' cannot be read .*Copy or download the checkpoint again"),
        (missing_shard, "weights at '.*teacher' cannot be read .*model-00002-of-00002.*Copy or download"),
        (
            unknown_tracker,
            r"training\.report_to: transformers knows no tracker 'nosuch'\. Name some of .*, wandb, or leave",
        ),
        (
            missing_tracker,
            r"training\.report_to: 'clearml' is not installed\. Install it \(pip install clearml\), or",
        ),
        (
            different_tokenizers,
            r"two tokenizers differ from id \d+ on. Use .* tokenizers: calm or tide_cross.",
        ),
        (
            more_tokens_than_embeddings,
            "student's tokenizer has ids up to 319, its model only 300 embeddings. Give student.tokenizer .*"
            r", or call model\.resize_token_embeddings\(len\(tokenizer\)\) and save the model\.$",
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_bad_input_is_one_line_with_its_remedy(
    bench: Bench, damage: Callable[[Bench], None], message: str
) -> None:
    damage(bench)
    lines = bench.errors()
    assert len(lines) == 1, "\n".join(lines)
    assert re.search(message, lines[0]), lines[0]
    assert bench.errors("--check") == lines


@pytest.mark.parametrize(
    ("damage", "rejected"),
    [
        (broken_line, "8 rows, 7 examples .*\n  1 rejected: not JSON\n"),
        (mask_in_the_text, "rows, 2 examples,.*\n  1 rejected: mask token"),
    ],
)
def test_a_bad_row_is_counted_and_stops_nothing(
    bench: Bench, damage: Callable[[Bench], None], rejected: str
) -> None:
    damage(bench)
    path = bench.folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(bench.values))
    assert main(["distill", str(path), "--check"]) == 0
    out, _ = bench.capture.readouterr()
    assert re.search(rejected, out), out


def test_the_undamaged_recipe_is_fit_to_run(bench: Bench) -> None:
    path = bench.folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(bench.values))
    assert main(["distill", str(path), "--check"]) == 0
    out, err = bench.capture.readouterr()
    said = re.fullmatch(
        r"(.*): fit to run; method kl, student's vocabulary 300, teacher's vocabulary 300; 8 rows, 8 "
        r"examples \(\d+ cut at max_length\), \d+ student tokens, \d+ in the loss\n",
        out,
    )
    assert said and said[1] == str(path), out
    assert err == ""


def test_the_check_of_prepared_data_counts_rejected_rows(bench: Bench) -> None:
    broken_line(bench)
    bench.values["data"]["prepared"] = str(bench.folder / "shards")
    path = bench.folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(bench.values))
    assert main(["prepare", str(path), "--workers", "1"]) == 0
    bench.capture.readouterr()
    assert main(["distill", str(path), "--check"]) == 0
    out, _ = bench.capture.readouterr()
    assert "; 8 rows, 7 examples (" in out and out.endswith(" in the loss\n  1 rejected: not JSON\n")


def test_every_problem_of_a_recipe_has_a_line(bench: Bench) -> None:
    unknown_key(bench)
    wrong_type(bench)
    teacher_that_trains(bench)
    path = bench.folder / "recipe.yaml"
    lines = [line.removeprefix(f"tide distill: {path}:") for line in bench.errors()]
    number = {
        key: 1
        + next(i for i, line in enumerate(path.read_text().splitlines()) if line.strip().startswith(key))
        for key in ("trainable", "training", "batch_size", "max_step")
    }
    assert sorted(line.split(": ", 2)[:2] for line in lines) == sorted(
        [
            [str(number["trainable"]), "teacher.trainable"],
            [str(number["training"]), "training.max_steps"],
            [str(number["batch_size"]), "training.batch_size"],
            [str(number["max_step"]), "training.max_step"],
        ]
    )
    assert "unknown key; nearest known key: training.max_steps" in "\n".join(lines)


def test_a_missing_recipe_is_named(bench: Bench) -> None:
    status = main(["distill", str(bench.folder / "nothing.yaml")])
    out, err = bench.capture.readouterr()
    assert (status, out) == (2, "")
    assert err == (
        f"tide distill: {bench.folder / 'nothing.yaml'}: no such file; give the path of a recipe "
        "(relative to the current directory)\n"
    )


def test_a_bad_override_is_quoted(bench: Bench) -> None:
    bench.overrides = ["training.max_stps=3", "training.learning_rate=fast"]
    lines = bench.errors()
    assert len(lines) == 2
    assert "override 'training.max_stps=3'" in lines[0] + lines[1]
    assert "nearest known key: training.max_steps" in lines[0] + lines[1]
    assert "override 'training.learning_rate=fast': training.learning_rate: expected a number" in "\n".join(
        lines
    )


@pytest.mark.parametrize("method", ["kl", "reverse_kl", "taid", "tidal", "tide_shared"])
def test_every_token_method_needs_one_vocabulary(bench: Bench, method: str) -> None:
    different_tokenizers(bench)
    bench.overrides = [f"method={method}"]
    (line,) = bench.errors()
    assert f"method {method} compares distributions over one vocabulary" in line


@pytest.mark.parametrize("method", ["none", "calm", "tide_cross"])
def test_other_methods_take_two_vocabularies(bench: Bench, method: str) -> None:
    different_tokenizers(bench)
    path = bench.folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(bench.values))
    assert main(["distill", str(path), f"method={method}", "--check"]) == 0


def test_a_token_past_the_shared_vocabulary_is_named(bench: Bench) -> None:
    wide = make_tokenizer(300)
    wide.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    wide.save_pretrained(bench.folder / "wide")
    edit_json(bench.student / "config.json", vocab_size=301)
    bench.values["student"]["tokenizer"] = str(bench.folder / "wide")
    path = bench.folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(bench.values))
    assert main(["distill", str(path), "--check"]) == 0, "the text does not hold the token"
    rows = [*ROWS[:3], type(ROWS[0])("call", " <|tool|>()")]
    write_rows(bench.folder / "rows.jsonl", rows)
    (line,) = bench.errors()
    assert (
        "token '<|tool|>' (id 300), and the two tokenizers differ from id 300 on. Take that token out" in line
    )


def test_a_run_in_the_way_is_found_by_the_check_too(bench: Bench) -> None:
    (bench.folder / "runs" / "checkpoint-7").mkdir(parents=True)
    bench.overrides = [f"training.output_dir={bench.folder / 'runs'}"]
    (line,) = bench.errors("--check")
    assert "already holds checkpoint-7 of a run. Pass --resume to go on with it, or name another" in line
    assert line.endswith("training.output_dir. All else is fit to run.")
    no_data(bench)
    (line,) = bench.errors("--check")
    assert "no file or directory at" in line and "already holds" not in line


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_directory_of_other_files_is_refused(bench: Bench, resume: list[str]) -> None:
    bench.overrides = [f"training.output_dir={bench.folder / 'mine'}"]
    (bench.folder / "mine").mkdir()
    for name in ("config.json", "recipe.yaml"):
        (bench.folder / "mine" / name).write_text("precious")
        for options in (resume, ["--check", *resume]):
            (line,) = bench.errors(*options)
            assert f"mine' holds files of no run, such as '{name}'. Name a new or empty" in line
        assert [path.read_text() for path in (bench.folder / "mine").iterdir()] == ["precious"]
        (bench.folder / "mine" / name).unlink()


def test_a_directory_that_another_process_writes_to_is_refused(bench: Bench) -> None:
    bench.overrides = [f"training.output_dir={bench.folder / 'mine'}"]
    bench.values["data"]["prepared"] = str(bench.folder / "shards")
    with one_writer("distill", bench.folder / "mine"), one_writer("prepare", bench.folder / "shards"):
        (line,) = bench.errors()
        assert re.search(r": process \d+ on \S+, since .*, writes to '.*mine'\. Wait until", line)
        assert main(["prepare", str(bench.folder / "recipe.yaml")]) == 2
        assert re.search(r"process \d+ on .* writes to '.*shards'\.", bench.capture.readouterr().err)


def test_a_tilde_is_the_home_directory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(bench.folder))
    for section in ("student", "teacher"):
        bench.values[section]["path"] = f"~/{section}"
    bench.values["data"]["train"] = "~/rows.jsonl"
    (bench.folder / "recipe.yaml").write_text(yaml.safe_dump(bench.values))
    arguments = ["data.prepared=~/shards", "training.output_dir=~/run"]
    assert main(["prepare", "~/recipe.yaml", "--workers=1", *arguments]) == 0
    assert (bench.folder / "shards" / "manifest.json").is_file()
    assert main(["distill", "~/recipe.yaml", "--check", *arguments]) == 0
