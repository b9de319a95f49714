"""`tide sample`: prompts and where they come from, conversations, draws, and runs that are not finished."""

from __future__ import annotations

import io
import json
import shutil
from typing import TYPE_CHECKING

import pytest

import tide.sampling
from tests.chat import make_chat_tokenizer
from tests.flow.recipes import tiny_recipe
from tests.tiny import save_checkpoint
from tide import distill, generate
from tide.cli.faults import Terminated
from tide.cli.main import main
from tide.models import load_model, load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tiny import TinyCheckpoints

SIZES = {"max_new_tokens": 12, "block_size": 8}
OPTIONS = ["--max-new-tokens=12", "--block-size=8"]


def test_sample_prints_each_prompt_with_its_completion(
    tiny_checkpoints: TinyCheckpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tiny_checkpoints.student)
    prompts = ["def add(a, b):\n", "import"]
    sizes = {"max_new_tokens": 12, "block_size": 8, "steps_per_block": 4}
    expected = generate(load_model(path, trainable=False), load_tokenizer(path), prompts, **sizes)
    capsys.readouterr()
    options = [f"--{name.replace('_', '-')}={value}" for name, value in sizes.items()]
    assert main(["sample", path, "def add(a, b):\\n", "import", *options]) == 0
    out = capsys.readouterr().out
    assert out == f"{prompts[0]}{expected[0]}\n\n{prompts[1]}{expected[1]}\n"
    assert any(expected), "an untrained model says something"


def test_sample_takes_the_block_size_of_training(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(tiny_checkpoints.student, tmp_path / "run")
    assert main(["sample", str(run), "x"]) == 2
    assert "config.json records no block_size" in capsys.readouterr().err
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**values, "mask_token_id": 1, "block_size": 4}))
    model, tokenizer = load_model(str(run), trainable=False), load_tokenizer(str(run))
    for options, size in ([], 4), (["--block-size=8"], 8):
        (expected,) = generate(model, tokenizer, ["def add"], max_new_tokens=10, block_size=size)
        capsys.readouterr()
        assert main(["sample", str(run), "def add", "--max-new-tokens=10", *options]) == 0
        assert capsys.readouterr().out == f"def add{expected}\n"


@pytest.mark.parametrize("read", [{"model_type": "wedlm"}, {"in_block": "observed_first"}, {"shift": 1}])
def test_sample_refuses_a_model_that_reads_otherwise(
    read: dict[str, object],
    tiny_checkpoints: TinyCheckpoints,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(tiny_checkpoints.student, tmp_path / "run")
    values = json.loads((run / "config.json").read_text())
    values |= {"mask_token_id": 1, "block_size": 4, **read}
    (run / "config.json").write_text(json.dumps(values))
    assert main(["sample", str(run), "x"]) == 2
    assert f"{values['model_type']} model, which reads a text otherwise" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere/model", "no folder 'nowhere/model' here; no readable config.json at 'nowhere/model' "),
        ("./model", "no folder './model' here. Give a folder"),
    ],
)
def test_sample_reports_bad_input_in_one_line(
    capsys: pytest.CaptureFixture[str], place: str, message: str
) -> None:
    assert main(["sample", place, "x"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("tide sample: ")]
    assert len(lines) == 1 and f"load_config: {message}" in lines[0]
    assert "Traceback" not in err


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("chat") / "model", make_chat_tokenizer(), seed=3)


def completed(path: Path, prompts: list, **options: float) -> list[str]:
    """The completions that `generate` gives."""
    model, tokenizer = load_model(str(path), trainable=False), load_tokenizer(str(path))
    return generate(model, tokenizer, prompts, **SIZES, **options)


def type_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


def test_sample_reads_prompts_from_arguments_stdin_and_a_file(
    tiny_checkpoints: TinyCheckpoints,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "prompt.txt").write_bytes("é = r'\\n'\r\n".encode())
    type_in(monkeypatch, "ü\n\nimport".encode())
    prompts = ["x", "ü\n\nimport", "é = r'\\n'\r\n"]
    expected = completed(tiny_checkpoints.student, prompts, temperature=0.7, seed=5)
    assert expected != completed(tiny_checkpoints.student, prompts)
    capsys.readouterr()
    options = [*OPTIONS, "--temperature=0.7", "--seed=5", f"--prompt-file={tmp_path / 'prompt.txt'}"]
    assert main(["sample", str(tiny_checkpoints.student), "x", "-", *options]) == 0
    texts = [prompt + completion for prompt, completion in zip(prompts, expected, strict=True)]
    assert capsys.readouterr().out == "\n\n".join(texts) + "\n"


@pytest.mark.parametrize("options", [["-"], ["--chat"], ["--prompt-file=FILE"]])
def test_sample_names_bytes_that_are_no_utf8_in_one_line(
    options: list[str],
    chat_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = b"much text in front of " * 3 + b"caf\xe9"
    (tmp_path / "FILE").write_bytes(content)
    type_in(monkeypatch, content)
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(chat_model), *options, *OPTIONS]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tide sample: ")]
    assert len(lines) == 1 and "must be valid UTF-8" in lines[0] and "in front of caf" in lines[0]


def test_sample_answers_each_prompt_of_a_chat_by_the_template(
    chat_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [f"<|turn|>user\n{text}<|end_turn|>\n<|turn|>assistant\n" for text in ("Hi.", "a\nb")]
    expected = completed(chat_model, prompts)
    capsys.readouterr()
    assert main(["sample", str(chat_model), "Hi.", "a\\nb", "--chat", *OPTIONS]) == 0
    assert capsys.readouterr().out == "\n\n".join(expected) + "\n"
    assert all(expected)


def test_a_conversation_is_read_line_by_line_with_its_history(
    chat_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, replies = "", []
    for line in ("Hé?", "And then?"):
        text += f"<|turn|>user\n{line}<|end_turn|>\n<|turn|>assistant\n"
        replies += completed(chat_model, [text])
        text += f"{replies[-1]}<|end_turn|>\n"
    capsys.readouterr()
    for end in ("", "\n\nnot read\n"):  # the end of the input; an empty line
        type_in(monkeypatch, f"Hé?\nAnd then?{end}".encode())
        assert main(["sample", str(chat_model), "--chat", *OPTIONS]) == 0
        assert capsys.readouterr().out == f"{replies[0]}\n{replies[1]}\n"


def test_an_interrupt_stops_one_reply_and_a_termination_the_conversation(
    chat_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def scripted(model: object, tokenizer: object, prompts: list, **options: object) -> list[str]:
        asked.append([message["content"] for message in prompts[0]])
        said = asked[-1][-1]
        if said in ("stop", "terminate"):
            raise {"stop": KeyboardInterrupt, "terminate": Terminated}[said]
        return [said.upper()]

    monkeypatch.setattr(tide.sampling, "generate", scripted)
    type_in(monkeypatch, b"one\nstop\ntwo\nterminate\nthree\n")
    assert main(["sample", str(chat_model), "--chat", *OPTIONS]) == 143
    out, err = capsys.readouterr()
    assert out == "ONE\nTWO\n" and err.count("tide sample: reply stopped") == 1
    assert asked[1:3] == [["one", "ONE", "stop"], ["one", "ONE", "two"]] and len(asked) == 4


def test_a_chat_without_a_template_is_refused_before_weights_load(
    tiny_checkpoints: TinyCheckpoints, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tide.models.load_model", lambda *args, **kwargs: pytest.fail("weights were read"))
    assert main(["sample", str(tiny_checkpoints.student), "x", "--chat", *OPTIONS]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tide sample: --chat: ") and "has no chat template" in line
    assert "Set tokenizer.chat_template" in line


def test_sample_names_the_newest_undamaged_checkpoint_of_an_unfinished_run(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    distill(tiny_recipe(tiny_checkpoints, run, max_steps=3, save_steps=1, save_total_limit=3))
    (run / "config.json").unlink()  # It is installed with the student, at the end.
    (run / "checkpoint-3" / "model.safetensors").write_bytes(b"cut")
    capsys.readouterr()
    assert main(["sample", str(run), "x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tide sample: '{run}' is an unfinished run")
    assert f"Sample the newest undamaged one, '{run / 'checkpoint-2'}'" in line
    assert main(["sample", str(run / "checkpoint-2"), "x", "--max-new-tokens=8"]) == 0
    for number in (1, 2):
        (run / f"checkpoint-{number}" / "manifest.json").unlink()
    capsys.readouterr()
    assert main(["sample", str(run), "x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "All are damaged; finish it" in line
