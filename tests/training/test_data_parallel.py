"""Two processes on the CPU, as `torchrun` starts them: one student, and noise and data of their own."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from tests.flow.recipes import tiny_values
from tests.ranks import run_ranks
from tide.disk import ASIDE
from tide.training.checkpoints import checkpoints_in, latest_complete_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tiny import TinyCheckpoints

# Runs one rank: trains by the recipe in argv[1]; once more, stopped by a signal to the second rank during
# step 3; and on from there; into NaN; and by the command. Leaves in argv[2] what it saw and the weights it
# ended with.
RANK = """
import io, json, os, signal, sys
from contextlib import redirect_stdout

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback
from tide import Recipe, pipeline
from tide.cli.main import main

torch.set_num_threads(1)
rank, folder = int(os.environ["RANK"]), sys.argv[2]
build = pipeline.build_trainer
seen = {}

class Leave(TrainerCallback):
    def __init__(self, name):
        self.name = name

    def on_train_end(self, *arguments, model, **kwargs):
        weights = {name: value.detach().clone() for name, value in model.student.named_parameters()}
        save_file(weights, f"{folder}/{self.name}-{rank}.safetensors")

class Interrupt(TrainerCallback):
    def on_step_begin(self, arguments, state, control, **kwargs):
        if rank == 1 and state.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)

class Break(TrainerCallback):
    def on_step_begin(self, arguments, state, control, model, **kwargs):
        if rank == 1 and state.global_step == 2:
            model.student.get_input_embeddings().weight.data.fill_(float("nan"))

def run(name, recipe, *callbacks, resume=False):
    times, texts = [], []

    def recorded(*arguments, **keywords):
        trainer = build(*arguments, **keywords)
        noiser = trainer.noiser
        def noise(batch, generator):
            noised = noiser(batch, generator)
            times.append(noised.t.tolist())
            texts.extend(row[ok].tolist() for row, ok in zip(batch.student.token_ids, batch.student.valid))
            return noised
        trainer.noiser = noise
        return trainer

    pipeline.build_trainer = recorded
    result = pipeline.distill(recipe, resume=resume, callbacks=[Leave(name), *callbacks])
    seen[name] = {
        "times": times,
        "texts": texts,
        "logs": result.log_history,
        "finished": result.finished,
        "steps": result.steps,
    }

whole = Recipe.from_dict(json.load(open(sys.argv[1])))
again = whole.replace(training={"output_dir": f"{folder}/again", "logging_steps": 2})
run("whole", whole)
run("stopped", again, Interrupt())
run("resumed", again, resume=True)
try:
    run("broken", again.replace(training={"output_dir": f"{folder}/broken", "save_steps": 2}), Break())
except ValueError as error:
    seen["error"] = str(error)
pipeline.build_trainer = build
shorter = [f"training.output_dir={folder}/command", "training.max_steps=2"]
with redirect_stdout(io.StringIO()) as printed:
    seen["status"] = main(["distill", sys.argv[1], *shorter])
seen["printed"] = printed.getvalue()
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(seen, file)
"""


@pytest.fixture(scope="module")
def ranks(
    tiny_checkpoints: TinyCheckpoints, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict]]:
    """The folder of two ranks' runs, and what each rank saw."""
    folder = tmp_path_factory.mktemp("ranks")
    values = tiny_values(
        tiny_checkpoints, folder / "run", "tide_shared", max_steps=6, batch_size=2, save_steps=100
    )
    values["objective"] = {"ce_weight": 0.5, "distill_weight": 2.0}
    (folder / "recipe.json").write_text(json.dumps(values))
    run_ranks(RANK, 2, folder, str(folder / "recipe.json"), str(folder), seconds=240)
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_both_ranks_end_with_the_same_trained_weights(
    ranks: tuple[Path, list[dict]], tiny_checkpoints: TinyCheckpoints
) -> None:
    folder, _ = ranks
    one, other = (load_file(folder / f"whole-{rank}.safetensors") for rank in (0, 1))
    saved, start = (
        load_file(folder / "run" / "model.safetensors"),
        load_file(tiny_checkpoints.student / "model.safetensors"),
    )
    assert one.keys() == other.keys() == saved.keys()
    for name, value in one.items():
        assert torch.isfinite(value).all(), name
        assert torch.equal(value, other[name]), name
        assert torch.equal(value, saved[name]), name
        assert not torch.equal(value, start[name]), name


def test_ranks_draw_their_own_noise_and_read_their_own_half(ranks: tuple[Path, list[dict]]) -> None:
    one, other = (seen["whole"] for seen in ranks[1])
    times = [t for seen in (one, other) for step in seen["times"] for t in step]
    assert len(times) == len(set(times)) == 24
    epoch = [tuple(text) for seen in (one, other) for text in seen["texts"][:4]]
    assert len(set(epoch)) == 8, "an epoch of eight rows: every row once, on one of the ranks"


def test_the_first_rank_logs_means_over_both_and_writes_the_run(ranks: tuple[Path, list[dict]]) -> None:
    folder, (one, other) = ranks
    assert one["whole"]["finished"] and other["whole"]["finished"]
    logs = [[entry for entry in rank["whole"]["logs"] if "loss" in entry] for rank in (one, other)]
    assert [entry["step"] for entry in logs[0]] == [1, 2, 3, 4, 5, 6]
    for first, second in zip(*logs, strict=True):
        for name in ("loss", "cross_entropy", "tidal", "lambda"):
            assert math.isfinite(first[name]) and first[name] == second[name], name
        assert first["loss"] == pytest.approx(0.5 * first["cross_entropy"] + 2 * first["tidal"], rel=1e-5)
    entropy = sum(entry["cross_entropy"] for entry in logs[0]) / 6
    assert abs(entropy - math.log(300)) < 2, "a mean over ranks is near one rank's, a sum is not"
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["steps"] == 6 and summary["log_history"] == one["whole"]["logs"]


def test_a_signal_to_one_rank_stops_both_at_one_step(ranks: tuple[Path, list[dict]]) -> None:
    folder, seen = ranks
    # During step 3, heard of at the next logging step.
    assert [(rank["stopped"]["finished"], rank["stopped"]["steps"]) for rank in seen] == [(False, 4)] * 2
    one, other = (load_file(folder / f"stopped-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_stopped_run_resumes_bit_for_bit(ranks: tuple[Path, list[dict]]) -> None:
    folder, seen = ranks
    for rank, record in enumerate(seen):
        assert (record["resumed"]["finished"], record["resumed"]["steps"]) == (True, 6)
        assert record["stopped"]["times"] + record["resumed"]["times"] == record["whole"]["times"]
        whole, resumed = (load_file(folder / f"{name}-{rank}.safetensors") for name in ("whole", "resumed"))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_holds_what_every_rank_wrote(ranks: tuple[Path, list[dict]]) -> None:
    checkpoint = latest_complete_checkpoint(ranks[0] / "again")
    assert checkpoint is not None and checkpoint.name == "checkpoint-6"
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    assert files.keys() > {"rng_state_0.pth", "rng_state_1.pth", "model.safetensors", "optimizer.pt"}
    assert not (ranks[0] / "again" / ASIDE).exists()


def test_nan_on_one_rank_stops_both_before_anything_is_saved(ranks: tuple[Path, list[dict]]) -> None:
    folder, seen = ranks
    for rank in seen:
        assert re.search(r"loss, .*gradient NaN or infinite at step 3, in 2 of its examples", rank["error"])
    assert [path.name for path in checkpoints_in(folder / "broken")] == ["checkpoint-2"]
    assert latest_complete_checkpoint(folder / "broken") is not None


def test_one_rank_prints_how_the_run_ended(ranks: tuple[Path, list[dict]]) -> None:
    folder, (one, other) = ranks
    assert one["status"] == other["status"] == 0
    assert one["printed"].count(f"{folder / 'command'}: 2 steps in ") == 1
    assert "steps in" not in other["printed"]
