"""Evaluate checkpoints on held-out text: a line of JSON (`results.Model`) for each.

    python -m examples.quickstart.evaluate RECIPE.yaml HELD_OUT.jsonl CHECKPOINT ...

`RECIPE.yaml` gives max_length and block_size.
"""

from __future__ import annotations

import sys
from pathlib import Path

from examples.quickstart.results import Evaluation, Model
from tide.config import load_recipe
from tide.evaluation import held_out_likelihood
from tide.models import DiffusionModel, contract_of, load_model
from tide.preparation import held_out_examples, load_tokenizers


def evaluate(recipe_path: str, held_out: str, checkpoint: str) -> Model:
    """The checkpoint's size and its held-out figures."""
    overrides = ["method=none", f"student.path={checkpoint}", f"data.held_out={held_out}"]
    recipe = load_recipe(recipe_path, overrides)
    tokenizers, network = load_tokenizers(recipe), load_model(checkpoint, trainable=False)
    contract = contract_of(network.config, tokenizers.student, block_size=recipe.masking.block_size)
    model, examples = DiffusionModel(network, contract), held_out_examples(recipe, tokenizers)
    found = held_out_likelihood(model, tokenizers.student, examples)
    return Model(
        name=Path(checkpoint).name,
        parameters=network.num_parameters(),
        vocabulary_size=len(tokenizers.student),
        evaluation=Evaluation(**found.model_dump()),
    )


if __name__ == "__main__":
    recipe_path, held_out, *checkpoints = sys.argv[1:]
    for checkpoint in checkpoints:
        print(evaluate(recipe_path, held_out, checkpoint).model_dump_json(), flush=True)
