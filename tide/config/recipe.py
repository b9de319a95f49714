"""A whole recipe: checked sections, read from YAML or from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tide.config.document import Document, to_yaml
from tide.config.problem import Place
from tide.config.reading import apply_overrides, check
from tide.config.sections import Sections


class Recipe(Sections):
    """One distillation run, as a YAML file of these keys and sections.

    A `Recipe` that exists is valid. With method `none` a teacher may stay; it is neither loaded nor used.

    Raises:
        RecipeError: a value is of the wrong type or out of bounds, or two values contradict each other.
    Source: methods and defaults of TIDE (arXiv 2604.26951).
    """

    def __init__(self, document: Document | None = None, /, **values: Any) -> None:
        document = document or Document.from_mapping(values, Place("recipe"))
        check(type(self), document)
        super().__init__(**document.values)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Recipe:
        """A recipe from nested plain values, such as `Recipe.to_dict` gives or a YAML reader returns.

        Raises:
            RecipeError: as for a file; places are "recipe" instead of lines.
        """
        return cls(Document.from_mapping(values, Place("recipe")))

    def replace(self, **changes: Any) -> Recipe:
        """A checked copy with other values; a mapping changes the keys of its section that it names.

        `recipe.replace(method="kl", training={"seed": 1})`
        """
        values = self.to_dict()
        for name, change in changes.items():
            is_partial = isinstance(change, Mapping) and isinstance(values.get(name), Mapping)
            values[name] = {**values[name], **change} if is_partial else change
        return Recipe.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, every default written out; the caller may change them."""
        return self.model_dump()

    def to_yaml(self) -> str:
        """YAML text with every default written out; `load_recipe` of it gives an equal recipe."""
        return to_yaml(self.to_dict())


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file, strictly.

    Args:
        path: the file.
        overrides: `key=value` texts with dotted keys and YAML values, such as `training.max_steps=10` or
            `training.report_to=[tensorboard]`, written over the file in order.
    Returns:
        The recipe, checked.
    Raises:
        RecipeError: one line per problem, with file and line (or the override), key and remedy.
    """
    if isinstance(overrides, str):
        raise TypeError(
            f"load_recipe: overrides is a list of key=value texts, got the text {overrides!r}; wrap it in []"
        )
    document = Document.from_file(path)
    apply_overrides(Recipe, document, overrides)
    return Recipe(document)
