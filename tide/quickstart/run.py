"""The quickstart: every method on real text, within one tokenizer and across two, then table, plots and
report.

All runs of a seed share starting checkpoint, data order and noise, so methods are compared pair by pair.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tide._version import __version__
from tide.config import Recipe, load_recipe
from tide.data import TextRow
from tide.quickstart.corpus import FunctionRow, split_functions, write_rows
from tide.quickstart.jobs import run_job
from tide.quickstart.report import write_report
from tide.quickstart.results import HeatMap, Pipeline, Results, Run, SettingValue
from tide.quickstart.table import mean_nats_per_byte, rich_table
from tide.quickstart.worker import HeldOut, evaluate_checkpoint, run_method

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
    """How much is run.

    Attributes:
        steps: optimiser steps of a run.
        seeds: of data order and noise.
        held_out: functions evaluated on.
        evaluations: of every run, evenly over its steps.
    """

    steps: int
    seeds: tuple[int, ...]
    held_out: int
    evaluations: int = 2

    @classmethod
    def quick(cls) -> Settings:
        """At most ten minutes on two cores."""
        return cls(steps=80, seeds=(0, 1), held_out=128)

    @classmethod
    def full(cls) -> Settings:
        """The table of the README."""
        return cls(steps=160, seeds=(0, 1, 2), held_out=256, evaluations=4)

    def changed(self, *, steps: int | None, num_seeds: int | None) -> Settings:
        """With other steps or seeds where given.

        Raises:
            ValueError: a number below 1.
        """
        for name, number in (("steps", steps), ("seeds", num_seeds)):
            if number is not None and number < 1:
                raise ValueError(f"quickstart: {name} must be at least 1; got {number}.")
        seeds = self.seeds if num_seeds is None else tuple(range(num_seeds))
        return replace(self, steps=self.steps if steps is None else steps, seeds=seeds)


def quickstart(
    settings: Settings,
    output_dir: Path,
    *,
    fresh: bool = False,
    jobs: int | None = None,
    console: Console | None = None,
) -> Results:
    """Runs everything and writes results.json, PNG plots and report.html to `output_dir`.

    What an interrupted quickstart with the same settings has finished is kept. `jobs` runs go side by side,
    each on one thread: models of this size gain little from more. By default one per core, at most six.

    Raises:
        ValueError: not in a clone of the repository, or `output_dir` holds a quickstart with other settings.
        JobFailed: a run failed; names its log.
    """
    console = console or (Console() if sys.stdout.isatty() else Console(width=100))
    jobs = min(os.cpu_count() or 1, 6) if jobs is None else jobs
    for spec in PIPELINES:
        if not Path(spec.recipe).is_file():
            raise ValueError(
                f"quickstart: no {spec.recipe} here ({Path.cwd()}). Run it in a clone of tide's repository, "
                "which holds the recipes and the checkpoints they start from."
            )
    if jobs < 1:
        raise ValueError(f"quickstart: jobs must be at least 1; got {jobs}.")
    # Only what a quickstart wrote is removed: --output-dir may name any folder.
    if fresh and (output_dir / "data" / "train.jsonl").is_file():
        shutil.rmtree(output_dir)
    train, held_out_rows = split_functions()
    write_rows(train, output_dir / "data" / "train.jsonl")
    write_rows(held_out_rows, output_dir / "data" / "held_out.jsonl")
    recipes = {
        spec.name: load_recipe(spec.recipe, _shared_overrides(settings, output_dir)) for spec in PIPELINES
    }
    described = _describe(settings, recipes, len(train), len(held_out_rows))
    results = _earlier_results(output_dir, described) or Results(
        _environment(jobs), described, [], _heat_map(recipes)
    )
    if find_spec("matplotlib") is None:
        console.print(
            'No plots: matplotlib is not installed (pip install -e ".[plots]"). All else is made.',
            markup=False,
        )
    held_out = {name: _held_out(held_out_rows, settings, recipe) for name, recipe in recipes.items()}
    with _progress(console) as progress:
        bench = _Bench(recipes, held_out, settings, output_dir, results, progress, jobs)
        bench.evaluate_starting_points()
        bench.run_methods()
    report = write_report(bench.results, output_dir)
    for pipeline in bench.results.pipelines:
        console.print()
        console.print(rich_table(pipeline))
    console.print(f"\nReport: {report}", soft_wrap=True)
    return bench.results


class _Bench:
    """Runs jobs side by side, one thread of torch each, and keeps `results` on disk as they arrive."""

    def __init__(
        self,
        recipes: dict[str, Recipe],
        held_out: dict[str, HeldOut],
        settings: Settings,
        output_dir: Path,
        results: Results,
        progress: Progress,
        jobs: int,
    ) -> None:
        self.recipes, self.held_out, self.settings = recipes, held_out, settings
        self.output_dir, self.results, self.progress, self.jobs = output_dir, results, progress, jobs

    def evaluate_starting_points(self) -> None:
        """Adds the pipelines that `results` lacks: the teacher and the undistilled student as they are."""
        missing = [spec for spec in PIPELINES if all(spec.name != one.name for one in self.results.pipelines)]
        paths = {
            (spec.name, role): config.path
            for spec in missing
            for role, config in (
                ("teacher", self.recipes[spec.name].teacher),
                ("student", self.recipes[spec.name].student),
            )
            if config is not None
        }
        facts = dict(self._side_by_side(self._evaluate, paths.items()))
        for spec in missing:
            teacher, teacher_evaluation = facts[spec.name, "teacher"]
            student, start = facts[spec.name, "student"]
            self._keep(Pipeline(spec.name, student, teacher, teacher_evaluation, start, []))

    def run_methods(self) -> None:
        """Adds the runs that `results` lacks, seed by seed."""
        done = {(one.name, run.method, run.seed) for one in self.results.pipelines for run in one.runs}
        wanted = [
            (spec, method, seed)
            for seed in self.settings.seeds
            for spec in PIPELINES
            for method in spec.methods
        ]
        missing = [
            (spec, method, seed) for spec, method, seed in wanted if (spec.name, method, seed) not in done
        ]
        for spec, run in self._side_by_side(self._run, missing):
            pipeline = next(one for one in self.results.pipelines if one.name == spec.name)
            start = (0, mean_nats_per_byte(pipeline.start_evaluation))
            run = replace(run, held_out_curve=[start, *run.held_out_curve])
            runs = sorted([*pipeline.runs, run], key=lambda one: (one.seed, spec.methods.index(one.method)))
            self._keep(replace(pipeline, runs=runs))

    def _side_by_side(
        self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]
    ) -> Iterator[Any]:
        """Results of `function(*arguments)` as they arrive; the first failure stops all."""
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(function, *one) for one in arguments]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in multiprocessing.active_children():
                    process.kill()
                raise

    def _keep(self, pipeline: Pipeline) -> None:
        others = [one for one in self.results.pipelines if one.name != pipeline.name]
        order = [spec.name for spec in PIPELINES]
        pipelines = sorted([*others, pipeline], key=lambda one: order.index(one.name))
        self.results = replace(self.results, pipelines=pipelines)
        self.results.save(self.output_dir / "results.json")

    def _evaluate(
        self, key: tuple[str, str], path: str
    ) -> tuple[tuple[str, str], tuple[ModelFacts, Evaluation]]:
        name, role = key
        task = self.progress.add_task(f"{name}: the {role} as it is", total=1)
        facts = run_job(
            evaluate_checkpoint, path, self.held_out[name], log=self._folder(name) / f"{role}.log"
        )
        self.progress.update(task, completed=1)
        return key, facts

    def _run(self, spec: PipelineSpec, method: str, seed: int) -> tuple[PipelineSpec, Run]:
        folder, recipe = self._folder(spec.name), self.recipes[spec.name]
        run_dir = folder / f"{method}-seed{seed}"
        task = self.progress.add_task(f"{spec.name}: {method}, seed {seed}", total=self.settings.steps)
        run: Run = run_job(
            run_method,
            recipe.replace(method=method, training={"seed": seed, "output_dir": str(run_dir)}),
            self.held_out[spec.name],
            with_completions=seed == self.settings.seeds[0],
            log=folder / f"{method}-seed{seed}.log",
            on_progress=lambda step: self.progress.update(task, completed=step),
        )
        return spec, run

    def _folder(self, name: str) -> Path:
        return self.output_dir / name.split()[0]


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<36}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _shared_overrides(settings: Settings, output_dir: Path) -> list[str]:
    steps = settings.steps
    return [
        f"data.train={output_dir / 'data' / 'train.jsonl'}",
        "data.held_out=null",  # Evaluated here, with the teacher and the start, on the same functions.
        f"training.max_steps={steps}",
        f"training.save_steps={max(steps // settings.evaluations, 1)}",
        f"training.save_total_limit={settings.evaluations + 1}",
        f"training.logging_steps={max(steps // 40, 1)}",
    ]


def _held_out(rows: list[FunctionRow], settings: Settings, recipe: Recipe) -> HeldOut:
    """Functions spread evenly over the held-out modules, and two short ones to complete.

    Only functions that every tokenizer holds whole, so that all models are asked for the same bytes.
    """
    rows = [row for row in rows if len((row.prompt + row.completion).encode()) <= 2 * recipe.data.max_length]
    chosen = rows[:: max(len(rows) // settings.held_out, 1)][: settings.held_out]
    short = [
        row
        for row in rows
        if 40 < len(row.prompt) < 80 and 80 < len(row.completion) < 240 and "__" not in row.prompt
    ]
    # One from the middle of either half, so that the two are of different modules.
    prompts = [short[len(short) // 4], short[3 * len(short) // 4]] if short else rows[:2]
    return HeldOut(
        rows=tuple(TextRow(row.prompt, row.completion) for row in chosen),
        prompts=tuple(TextRow(row.prompt, row.completion) for row in prompts),
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
            described[f"{word}: {key.replace('_', ' ')}"] = getattr(recipe.training, key)
        for key in ("temperature", "chunk_temperature", "distill_weight"):
            described[f"{word}: {key.replace('_', ' ')}"] = getattr(recipe.objective, key)
        described[f"{word}: block size"] = recipe.masking.block_size
        described[f"{word}: length"] = recipe.data.max_length
    return described


def _environment(jobs: int) -> dict[str, str]:
    from importlib.metadata import version

    return {
        "tide": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "runs side by side": f"{jobs}, on one thread each",
        "system": platform.system(),
    }


def _heat_map(recipes: dict[str, Recipe]) -> HeatMap:
    objective = recipes[PIPELINES[0].name].objective
    return HeatMap(objective.lambda_init, objective.lambda_max, objective.lambda_decay, "both")
