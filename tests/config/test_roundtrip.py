"""A valid recipe survives its YAML, and a misspelt key is found."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tide.config import Recipe, RecipeError, load_recipe
from tide.methods import METHODS

# Text that YAML readers may convert, beside arbitrary text without control characters.
TRICKY = ["5e-5", "1", "0x1f", "no", "true", "null", "~", "2024-01-01", "1:30", ".inf", "a: b", "#", "- a"]
TRICKY += ["'", '"', "*x", "!t", " a ", "010", "=", "<<", "1_000", "a\u2028b", "\ufeff", "[", "%"]
TEXT = st.sampled_from(TRICKY) | st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1
).filter(str.strip)


def number(low: float, high: float, **ends: bool) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, **ends)


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, object]:
    """Valid plain values; optional keys are there or not."""
    block_size = draw(st.integers(1, 64))
    lengths = st.integers(1, 64).map(lambda blocks: blocks * block_size)
    lambda_init = draw(number(0, 1))
    positive = number(0, 1e9, exclude_min=True)
    inner = number(0, 1, exclude_min=True, exclude_max=True)
    count = st.integers(1, 10**9)

    def model(name: str, dtypes: list[str], trainable: bool) -> st.SearchStrategy[dict[str, object]]:
        # A prefix of its own keeps the paths of student, teacher and output apart.
        return st.fixed_dictionaries(
            {"path": TEXT.map(lambda text: f"{name}{text}")},
            optional={
                "tokenizer": st.none() | TEXT,
                "dtype": st.sampled_from(dtypes),
                "trainable": st.sampled_from([None, trainable]),
            },
        )

    training = st.fixed_dictionaries(
        {"output_dir": TEXT.map(lambda text: f"o{text}"), "max_steps": count},
        optional={
            "batch_size": count,
            "learning_rate": positive | st.integers(1, 5),
            "warmup_ratio": number(0, 1),
            "lr_scheduler": st.sampled_from(["cosine", "linear", "constant_with_warmup"]),
            "weight_decay": number(0, 1e9),
            "precision": st.sampled_from(["fp32", "bf16"]),
            "seed": st.integers(0, 2**32 - 1),
            "report_to": st.lists(TEXT),
            "gradient_checkpointing": st.booleans(),
        },
    )
    objective = st.fixed_dictionaries(
        {"lambda_init": st.just(lambda_init), "lambda_max": number(lambda_init, 1)},
        optional={
            "temperature": number(0.01, 1000),
            "ce_weight": number(1e-6, 1e6),
            "distill_weight": number(0, 1e6),
            "lambda_axis": st.sampled_from([None, "both", "training", "timestep"]),
            "timestep_weight": st.sampled_from([None, "uniform", "midrange"]),
            "chunk_eps": number(0, 0.5, exclude_min=True, exclude_max=True),
            "chunk_divergence": st.sampled_from(["bce", "kl"]),
        },
    )
    values: dict[str, object] = {
        "method": draw(st.sampled_from(list(METHODS))),
        "student": draw(model("s", ["float32"], True)),
        "teacher": draw(model("t", ["float32", "bfloat16", "float16"], False)),
        "data": draw(
            st.fixed_dictionaries(
                {"train": TEXT.map(lambda text: f"t{text}"), "max_length": lengths},
                optional={
                    "held_out": st.none() | TEXT.map(lambda text: f"h{text}"),
                    "teacher_max_length": st.none() | lengths,
                    "num_workers": st.integers(0, 8),
                },
            )
        ),
        "masking": {"block_size": block_size, "time_epsilon": draw(inner), "demo_ratio": draw(inner)},
        "training": draw(training),
    }
    if draw(st.booleans()):
        values["objective"] = draw(objective)
    if values["method"] == "none" and draw(st.booleans()):
        values["teacher"] = None
    return values


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(recipes())
def test_a_recipe_comes_back_from_its_yaml(values):
    recipe = Recipe.from_dict(values)
    text = recipe.to_yaml()
    Path("r.yaml").write_text(text, encoding="utf-8", newline="")
    assert load_recipe("r.yaml") == recipe
    assert yaml.safe_load(text) == recipe.to_dict(), "YAML 1.1 readers see the same"
    assert load_recipe("r.yaml").to_yaml() == text
    for section, given_values in values.items():
        for key, value in given_values.items() if isinstance(given_values, dict) else ():
            kept = getattr(getattr(recipe, section), key)
            assert kept == value and (not isinstance(kept, float) or math.isfinite(kept))


def test_yaml_is_written_one_key_a_line_in_the_order_of_the_schema(load, minimal):
    text = load(minimal, ["student.tokenizer=ü"]).to_yaml()
    assert text.startswith(
        "method: tide_shared\nstudent:\n  path: models/student\n  tokenizer: ü\n  dtype: float32\n"
    )
    assert "  learning_rate: 5.0e-05\n" in text and text.endswith("  gradient_checkpointing: false\n")


def leaf_keys(values: dict[str, object]) -> list[tuple[str, str]]:
    return [(section, key) for section, inner in values.items() if isinstance(inner, dict) for key in inner]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(recipes(), st.data())
def test_a_key_with_one_letter_wrong_is_named_with_the_right_one(values, data):
    whole = Recipe.from_dict(values).to_dict()
    section, key = data.draw(st.sampled_from(leaf_keys(whole)))
    at = data.draw(st.integers(0, len(key) - 1))
    wrong = key[:at] + ("z" if key[at] != "z" else "y") + key[at + 1 :]
    whole[section][wrong] = whole[section].pop(key)
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict(whole)
    assert (
        f"recipe: {section}.{wrong}: unknown key; nearest known key: {section}.{key}"
        in str(caught.value).splitlines()
    )
