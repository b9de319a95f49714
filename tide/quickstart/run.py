"""The quickstart: every method on real text, within one tokenizer and across two, then table, plots and
report.

All runs of a seed share starting checkpoint, data order and noise, so methods are compared pair by pair.
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tide import __version__
from tide.config import Recipe, load_recipe
from tide.data import TextRow
from tide.quickstart.corpus import FunctionRow, split_functions, write_rows
from tide.quickstart.jobs import run_job
from tide.quickstart.report import write_report
from tide.quickstart.results import HeatMap, Pipeline, Results, Run, SettingValue
from tide.quickstart.table import rich_table
from tide.quickstart.worker import HeldOut, evaluate_checkpoint, run_method

if TYPE_CHECKING:
    from tide.quickstart.results import Evaluation, ModelFacts


@dataclass(frozen=True)
class PipelineSpec:
    """A recipe, and the methods that are compared by it."""

    name: str
    recipe: str
    methods: tuple[str, ...]


PIPELINES = (
    PipelineSpec("same tokenizer", "recipes/quickstart_same.yaml", ("none", "kl", "tide_shared")),
    PipelineSpec("cross tokenizer", "recipes/quickstart_cross.yaml", ("none", "calm", "tide_cross")),
)


@dataclass(frozen=True)
class Settings:
    """How much is run. `steps`: optimiser steps of a run; `held_out`: functions evaluated on."""

    steps: int
    seeds: tuple[int, ...]
    held_out: int

    @classmethod
    def quick(cls) -> Settings:
        """At most ten minutes on two cores."""
        return cls(steps=100, seeds=(0, 1), held_out=128)

    @classmethod
    def full(cls) -> Settings:
        """The table of the README."""
        return cls(steps=400, seeds=(0, 1, 2), held_out=384)

    def changed(self, *, steps: int | None, num_seeds: int | None) -> Settings:
        """With other steps or seeds where given.

        Raises:
            ValueError: a number below 1.
        """
        if min(1 if steps is None else steps, 1 if num_seeds is None else num_seeds) < 1:
            raise ValueError(f"quickstart: steps and seeds must be at least 1; got {steps} and {num_seeds}.")
        seeds = self.seeds if num_seeds is None else tuple(range(num_seeds))
        return replace(self, steps=self.steps if steps is None else steps, seeds=seeds)


def quickstart(
    settings: Settings, output_dir: Path, *, fresh: bool = False, console: Console | None = None
) -> Results:
    """Runs everything and writes results.json, PNG plots and report.html to `output_dir`.

    What an interrupted quickstart with the same settings has finished is kept.

    Raises:
        ValueError: not in a clone of the repository, or `output_dir` holds a quickstart with other settings.
        JobFailed: a run failed; names its log.
    """
    console = console or Console()
    for spec in PIPELINES:
        if not Path(spec.recipe).is_file():
            raise ValueError(
                f"quickstart: no {spec.recipe} here ({Path.cwd()}). Run it in a clone of tide's repository, "
                "which holds the recipes and the checkpoints they start from."
            )
    if fresh:
        shutil.rmtree(output_dir, ignore_errors=True)
    train, held_out_rows = split_functions()
    write_rows(train, output_dir / "data" / "train.jsonl")
    write_rows(held_out_rows, output_dir / "data" / "held_out.jsonl")
    recipes = {
        spec.name: load_recipe(spec.recipe, _shared_overrides(settings, output_dir)) for spec in PIPELINES
    }
    described = _describe(settings, recipes, len(train), len(held_out_rows))
    results = _earlier_results(output_dir, described) or Results(
        _environment(), described, [], _heat_map(recipes)
    )
    with Progress(
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        for spec in PIPELINES:
            held_out = _held_out(held_out_rows, settings, recipes[spec.name])
            results = _run_pipeline(
                spec, recipes[spec.name], held_out, settings, output_dir, results, progress
            )
    report = write_report(results, output_dir)
    for pipeline in results.pipelines:
        console.print(rich_table(pipeline))
    console.print(f"Report: {report}", soft_wrap=True)
    return results


def _run_pipeline(
    spec: PipelineSpec,
    recipe: Recipe,
    held_out: HeldOut,
    settings: Settings,
    output_dir: Path,
    results: Results,
    progress: Progress,
) -> Results:
    """Adds the pipeline's missing runs to `results`, saving after each."""
    pipeline = next((pipeline for pipeline in results.pipelines if pipeline.name == spec.name), None)
    folder = output_dir / spec.name.split()[0]
    if pipeline is None:
        assert recipe.teacher is not None
        facts: dict[str, tuple[ModelFacts, Evaluation]] = {}
        for role, path in (("teacher", recipe.teacher.path), ("student", recipe.student.path)):
            task = progress.add_task(f"{spec.name}: the {role} as it is", total=None)
            facts[role] = run_job(evaluate_checkpoint, path, held_out, log=folder / f"{role}.log")
            progress.remove_task(task)
        (student, start), (teacher, teacher_evaluation) = facts["student"], facts["teacher"]
        pipeline = Pipeline(spec.name, student, teacher, teacher_evaluation, start, [])
    for seed in settings.seeds:
        for method in spec.methods:
            if any((run.method, run.seed) == (method, seed) for run in pipeline.runs):
                continue
            pipeline = replace(
                pipeline,
                runs=[*pipeline.runs, _run(spec, recipe, method, seed, held_out, settings, folder, progress)],
            )
            others = [other for other in results.pipelines if other.name != spec.name]
            results = replace(results, pipelines=sorted([*others, pipeline], key=_order))
            results.save(output_dir / "results.json")
    return results


def _run(
    spec: PipelineSpec,
    recipe: Recipe,
    method: str,
    seed: int,
    held_out: HeldOut,
    settings: Settings,
    folder: Path,
    progress: Progress,
) -> Run:
    run_dir = folder / f"{method}-seed{seed}"
    changed = replace(
        recipe, method=method, training=replace(recipe.training, seed=seed, output_dir=str(run_dir))
    )
    task = progress.add_task(f"{spec.name}: {method}, seed {seed}", total=settings.steps)
    run: Run = run_job(
        run_method,
        changed,
        held_out,
        with_completions=seed == settings.seeds[0],
        log=folder / f"{method}-seed{seed}.log",
        on_progress=lambda step: progress.update(task, completed=step),
    )
    return run


def _shared_overrides(settings: Settings, output_dir: Path) -> list[str]:
    steps = settings.steps
    return [
        f"data.train={output_dir / 'data' / 'train.jsonl'}",
        f"data.held_out={output_dir / 'data' / 'held_out.jsonl'}",
        f"training.max_steps={steps}",
        f"training.save_steps={max(steps // 4, 1)}",
        "training.save_total_limit=5",
        f"training.logging_steps={max(steps // 40, 1)}",
    ]


def _held_out(rows: list[FunctionRow], settings: Settings, recipe: Recipe) -> HeldOut:
    """Functions spread evenly over the held-out modules, and two short ones to complete."""
    chosen = rows[:: max(len(rows) // settings.held_out, 1)][: settings.held_out]
    short = [
        row
        for row in rows
        if 40 < len(row.prompt) < 80 and 80 < len(row.completion) < 240 and row.prompt.count("\n") == 1
    ]
    prompts = [row for row in short if row.module == "json"][:1] + [
        row for row in short if row.module == "collections"
    ][:1]
    return HeldOut(
        rows=tuple(TextRow(row.prompt, row.completion) for row in chosen),
        prompts=tuple(TextRow(row.prompt, row.completion) for row in prompts or short[:2]),
        max_length=recipe.data.max_length,
        block_size=recipe.masking.block_size,
    )


def _earlier_results(output_dir: Path, described: dict[str, SettingValue]) -> Results | None:
    path = output_dir / "results.json"
    if not path.exists():
        return None
    earlier = Results.load(path)
    changed = [key for key in described if earlier.settings.get(key) != described[key]]
    if changed:
        raise ValueError(
            f"quickstart: {str(output_dir)!r} holds a quickstart with other settings ({', '.join(changed)}). "
            "Pass --fresh to discard it, or --output-dir for another place."
        )
    return earlier


def _describe(
    settings: Settings, recipes: dict[str, Recipe], num_train: int, num_held_out: int
) -> dict[str, SettingValue]:
    described: dict[str, SettingValue] = {
        "steps": settings.steps,
        "seeds": list(settings.seeds),
        "training functions": num_train,
        "held-out functions": min(settings.held_out, num_held_out),
    }
    for name, recipe in recipes.items():
        word = name.split()[0]
        for key in ("batch_size", "learning_rate"):
            described[f"{word}: {key.replace('_', ' ')}"] = asdict(recipe.training)[key]
        for key in ("temperature", "chunk_temperature", "distill_weight"):
            described[f"{word}: {key.replace('_', ' ')}"] = asdict(recipe.objective)[key]
        described[f"{word}: block size"] = recipe.masking.block_size
        described[f"{word}: length"] = recipe.data.max_length
    return described


def _environment() -> dict[str, str]:
    from importlib.metadata import version

    import torch

    return {
        "tide": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
        "system": platform.system(),
    }


def _heat_map(recipes: dict[str, Recipe]) -> HeatMap:
    objective = recipes[PIPELINES[0].name].objective
    return HeatMap(objective.lambda_init, objective.lambda_max, objective.lambda_decay, "both")


def _order(pipeline: Pipeline) -> int:
    return [spec.name for spec in PIPELINES].index(pipeline.name)
