"""The paper's recipes, two steps each, on its architectures at their real vocabularies."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file

from tests import wide
from tide import distill, load_recipe
from tide.contract import Contract
from tide.models import load_config
from tide.pipeline import load_models, model_contracts
from tide.preparation import load_tokenizers

if TYPE_CHECKING:
    from tide import Recipe

PAPER = Path(__file__).resolve().parents[2] / "recipes" / "paper"
NAMES = sorted(path.stem for path in PAPER.glob("*.yaml"))
CHATS = [
    ("Add two numbers.", "def add(first, second):\n    return first + second\n"),
    ("Read a file.", "def read(path):\n    with open(path) as handle:\n        return handle.read()\n"),
    ("Say naïve ☕.", "print('über Straße', 12345)\n"),
    ("Count.", "for index in range(3):\n    print(index, index * index)\n"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three checkpoints, and four chats."""
    folder = tmp_path_factory.mktemp("wide")
    wide.write_student(folder / "student")
    wide.write_wedlm(folder / "wedlm")
    wide.write_llada2(folder / "llada2")
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in CHATS
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def recipe_at(folder: Path, name: str, output_dir: Path) -> Recipe:
    """A published recipe with other places, and two short steps."""
    return load_recipe(
        PAPER / f"{name}.yaml",
        [
            f"student.path={folder}/student",
            f"teacher.path={folder}/{name.split('_')[0]}",
            "teacher.dtype=float32",
            "data.prepared=null",
            "data.sources=[]",
            f"data.train={folder}/rows.jsonl",
            "data.max_length=128",
            "data.teacher_max_length=128",
            f"training.output_dir={output_dir}",
            "training.num_train_epochs=null",
            "training.max_steps=2",
            "training.batch_size=4",
            "training.precision=fp32",
            "training.logging_steps=1",
        ],
    )


def test_there_is_a_recipe_for_every_row_of_the_table() -> None:
    methods = {name: load_recipe(PAPER / f"{name}.yaml").method for name in NAMES}
    assert methods == {
        "llada2_calm": "calm",
        "llada2_tide_cross": "tide_cross",
        "llada2_tide_shared": "tide_shared_chunks",
        "wedlm_kl": "kl",
        "wedlm_tide_cross": "reverse_kl",
        "wedlm_tide_shared": "tide_shared",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_two_steps(folder: Path, tmp_path: Path, name: str) -> None:
    result = distill(recipe_at(folder, name, tmp_path / "run"))
    logs = [entry for entry in result.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [1, 2]
    assert all(math.isfinite(value) for entry in logs for value in entry.values())
    start, end = (load_file(of / "model.safetensors") for of in (folder / "student", tmp_path / "run"))
    assert start.keys() == end.keys()
    weight = "model.layers.0.mlp.up_proj.weight"
    assert not start[weight].equal(end[weight])
    assert load_config(str(tmp_path / "run")).model_type == "a2d-qwen3"


@pytest.mark.slow
def test_a_run_under_llada2_resumes_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = recipe_at(folder, "llada2_tide_shared", run).replace(training={"save_steps": 1})
    distill(recipe)
    end = load_file(run / "model.safetensors")
    shutil.rmtree(run / "checkpoint-2")
    for name in ("summary.json", "model.safetensors"):
        (run / name).unlink()
    assert distill(recipe, resume=True).steps == 2
    resumed = load_file(run / "model.safetensors")
    assert all(resumed[name].equal(weight) for name, weight in end.items())


@pytest.mark.parametrize(
    ("name", "teacher"),
    [
        ("wedlm_kl", Contract(151665, 32, in_block="observed_first")),
        ("llada2_calm", Contract(156895, 32, rates=(0.3, 0.8))),
    ],
)
def test_each_side_keeps_its_own_contract(folder: Path, tmp_path: Path, name: str, teacher: Contract) -> None:
    recipe = recipe_at(folder, name, tmp_path)
    models = load_models(recipe, model_contracts(recipe, load_tokenizers(recipe)))
    assert {role: model.contract for role, model in models.items()} == {
        "student": Contract(151669, 32, rates=(1e-3, 1.0)),
        "teacher": teacher,
    }


def test_the_official_contracts_by_name(folder: Path, tmp_path: Path) -> None:
    official = {
        "wedlm_kl": Contract(151665, 32),
        "llada2_calm": Contract(156895, None),
    }
    for name, contract in official.items():
        recipe = recipe_at(folder, name, tmp_path).replace(teacher={"contract": "official"})
        models = load_models(recipe, model_contracts(recipe, load_tokenizers(recipe)))
        assert models["teacher"].contract == contract
