"""The recipe: a section per stage, read strictly from YAML."""

from __future__ import annotations

from tide.config.problem import Place, Problem, RecipeError, at_key
from tide.config.recipe import Recipe, load_recipe
from tide.config.records import Record, decode, differences
from tide.config.sections import (
    DataConfig,
    MaskingConfig,
    ModelConfig,
    ObjectiveConfig,
    SourceConfig,
    TrainingConfig,
)

__all__ = [
    "DataConfig",
    "MaskingConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "Place",
    "Problem",
    "Recipe",
    "RecipeError",
    "Record",
    "SourceConfig",
    "TrainingConfig",
    "at_key",
    "decode",
    "differences",
    "load_recipe",
]
