"""The shipped recipes load, and match their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tide.config import load_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


def test_the_quickstart_recipes_are_there():
    assert {"quickstart_same.yaml", "quickstart_cross.yaml"} <= {path.name for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_loads_and_survives_its_own_yaml(path, load):
    recipe = load_recipe(path)
    assert load(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("name", "method", "student"),
    [
        ("quickstart_same.yaml", "tide_shared", "examples/quickstart/checkpoints/student"),
        ("quickstart_cross.yaml", "tide_cross", "examples/quickstart/checkpoints/student-small-vocab"),
    ],
)
def test_the_quickstart_recipes_name_its_models_and_data(name, method, student):
    recipe = load_recipe(ROOT / "recipes" / name)
    assert recipe.method == method
    assert recipe.student.path == student
    assert recipe.teacher is not None and recipe.teacher.path == "examples/quickstart/checkpoints/teacher"
    assert recipe.data.train == "runs/quickstart/data/train.jsonl"
    assert recipe.data.held_out == "runs/quickstart/data/held_out.jsonl"
    assert (recipe.data.max_length, recipe.data.teacher_length, recipe.masking.block_size) == (128, 128, 16)


@pytest.mark.parametrize(("name", "teacher_length"), [("llada2_calm", 1024), ("wedlm_kl", 768)])
def test_the_paper_recipes_mix_their_data(name, teacher_length):
    recipe = load_recipe(ROOT / "recipes" / "paper" / f"{name}.yaml")
    lengths = (recipe.data.max_length, recipe.data.teacher_length, recipe.masking.block_size)
    assert lengths == (512, teacher_length, 32)
    paths = [source.path for source in recipe.data.sources]
    assert paths[:2] == ["allenai/tulu-3-sft-mixture", "HuggingFaceTB/smoltalk"]
    python = {source.path for source in recipe.data.sources if source.answer_contains == "python"}
    assert python == set(paths[2:]) == {"OpenCoder-LLM/opc-sft-stage1", "OpenCoder-LLM/opc-sft-stage2"}
    subsets = [(source.path, source.subset) for source in recipe.data.sources]
    assert len(set(subsets)) == len(subsets) == 9
