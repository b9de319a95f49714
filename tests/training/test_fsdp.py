"""Two gloo processes, FSDP2 on the CPU: a step of the sharded module is the step of the whole one.

Each decoder layer is wrapped, then the DistillationModule, which gathers the tied head before its forward
reads it. Mutants that this file kills: the step called past the module, whose head is then a shard; hidden
states detached before the loss. What is wrong in both modules alike is for test_step.py to find.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.flow.recipes import tiny_values, trainer_of
from tests.ranks import run_ranks
from tide import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tiny import TinyCheckpoints
    from tide.batch import NoisedBatch
    from tide.training import DistillationTrainer

METHODS = ("none", "tide_shared", "tide_cross")
PROGRESS = 0.5

# Runs one rank: a step of every method on a sharded module. Leaves in argv[1] what it got.
RANK = """
import json, os, sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from tests.flow.recipes import trainer_of
from tests.training.test_fsdp import METHODS, PROGRESS, noised_batch
from tide import Recipe

torch.set_num_threads(1)
folder = Path(sys.argv[1])
dist.init_process_group("gloo")
# accelerate, which the trainer is made with, would take part by these.
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    del os.environ[name]
mesh = init_device_mesh("cpu", (2,))
seen = {}
for method in METHODS:
    trainer = trainer_of(Recipe.from_dict(json.loads((folder / f"{method}.json").read_text())))
    module, noised = trainer.module, noised_batch(trainer)
    layouts = module.layouts(noised)
    for layer in module.student.base_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    parameters = dict(module.student.named_parameters())
    loss = module(noised, layouts, PROGRESS).loss
    loss.backward()
    seen[method] = {
        "loss": loss.detach(),
        "gradients": {name: x.grad.full_tensor() for name, x in parameters.items()},
        "own": {name: x.to_local().numel() / x.numel() for name, x in parameters.items()},
        "tied": module.student.lm_head.weight is module.student.base_model.embed_tokens.weight,
    }
torch.save(seen, folder / f"{dist.get_rank()}.pt")
dist.destroy_process_group()
"""


def noised_batch(trainer: DistillationTrainer) -> NoisedBatch:
    """Three texts at fixed times: the same in every process."""
    batch = trainer.data_collator([trainer.train_dataset[index] for index in (0, 1, 6)])["batch"]
    return trainer.noiser(batch, torch.Generator().manual_seed(5), torch.tensor([0.4, 0.55, 0.7]))


@pytest.fixture(scope="module")
def folder(tiny_checkpoints: TinyCheckpoints, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipes and what two ranks left."""
    folder = tmp_path_factory.mktemp("sharded")
    for method in METHODS:
        values = tiny_values(tiny_checkpoints, folder / "run", method)
        (folder / f"{method}.json").write_text(json.dumps(values))
    run_ranks(RANK, 2, folder, str(folder), seconds=280)
    return folder


@pytest.fixture(scope="module", params=METHODS)
def steps(request: pytest.FixtureRequest, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One method's step on the whole module, and what each rank has of it."""
    method = request.param
    trainer = trainer_of(Recipe.from_dict(json.loads((folder / f"{method}.json").read_text())))
    noised = noised_batch(trainer)
    loss = trainer.module(noised, trainer.module.layouts(noised), PROGRESS).loss
    loss.backward()
    gradients = {name: x.grad for name, x in trainer.module.student.named_parameters()}
    return {"loss": loss.detach(), "gradients": gradients}, [
        torch.load(folder / f"{rank}.pt")[method] for rank in (0, 1)
    ]


def test_every_parameter_is_sharded_and_the_head_stays_tied(
    steps: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    _, (one, other) = steps
    assert one["tied"] and other["tied"]
    for name, share in one["own"].items():
        assert share + other["own"][name] == 1 and 0 < share < 1, name


def test_the_loss_is_that_of_the_whole_module(
    steps: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    whole, (one, other) = steps
    assert torch.equal(one["loss"], other["loss"])
    assert float(one["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-6)


def test_the_gradients_are_those_of_the_whole_module(
    steps: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    whole, (one, other) = steps
    assert one["gradients"].keys() == whole["gradients"].keys()
    for name, expected in whole["gradients"].items():
        actual = one["gradients"][name]
        assert expected.abs().max() > 0, name
        assert torch.equal(actual, other["gradients"][name]), name
        worst = float((actual - expected).abs().max() / expected.abs().max())
        assert worst < 1e-5, f"{name}: {worst:.1e} of its largest entry"
