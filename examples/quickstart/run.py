"""The quickstart: `tide distill` by every method, within one tokenizer and across two, measured and reported.

All runs of a seed share starting checkpoint, data order and noise: methods are compared pair by pair.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import threading
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.quickstart.commands import Commands, steps_done
from examples.quickstart.corpus import FunctionRow, split_functions, write_rows
from examples.quickstart.output import RESULTS_FILE, claim
from examples.quickstart.report import write_report
from examples.quickstart.results import BASELINE, LONGER, Completion, Model, Pipeline, Results, Run
from examples.quickstart.table import rich_table
from tide import __version__
from tide.config import load_recipe
from tide.disk import writing

# Logged beside the loss terms.
NOT_TERMS = {"epoch", "step", "learning_rate", "grad_norm", "loss"}
NOT_TERMS |= {"tokens_per_second", "lambda", "active_chunks"}


class PipelineSpec(NamedTuple):
    """A recipe, and the methods to compare by it."""

    name: str
    recipe: str
    methods: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Inside the output directory."""
        return self.name.split()[0]


PIPELINES = (
    PipelineSpec("same tokenizer", "recipes/quickstart_same.yaml", ("none", "kl", "tide_shared")),
    PipelineSpec("cross tokenizer", "recipes/quickstart_cross.yaml", ("none", "calm", "tide_cross")),
)


class Settings(NamedTuple):
    """Size of a quickstart: `held_out` functions evaluate every run `evaluations` times over its steps."""

    steps: int
    seeds: tuple[int, ...]
    held_out: int
    evaluations: int = 2


QUICK = Settings(steps=80, seeds=(0, 1), held_out=128)
FULL = Settings(steps=160, seeds=(0, 1, 2), held_out=256, evaluations=4)


def quickstart(
    settings: Settings,
    output_dir: Path,
    *,
    fresh: bool = False,
    jobs: int | None = None,
    console: Console | None = None,
) -> Results:
    """Run what is missing; write results.json, figures, tables and report.html to `output_dir`.

    Args:
        settings: size.
        output_dir: an interrupted quickstart with the same settings goes on here.
        fresh: remove the files of an earlier quickstart first.
        jobs: runs side by side, on one thread each: small models gain little from more.
        console: for progress and tables.
    Raises:
        ValueError: not at the root of a clone, or `output_dir` holds a quickstart with other settings, or
            other files.
        RuntimeError: a command failed; names its log.
    """
    console = console or (Console() if sys.stdout.isatty() else Console(width=80))
    jobs = jobs or min(os.cpu_count() or 1, 6)
    if not all(Path(spec.recipe).is_file() for spec in PIPELINES):
        raise ValueError(f"no recipes/ here ({Path.cwd()}). Run it at the root of a clone of tide.")
    data = output_dir / "data"
    claim(output_dir, fresh=fresh)
    train, held_out = split_functions()
    evaluated, prompts = _choose(held_out, settings.held_out)
    described = {
        "steps": str(settings.steps),
        "seeds": ", ".join(map(str, settings.seeds)),
        "training functions": str(len(train)),
        "held-out functions": str(len(evaluated)),
    }
    recipes = {spec.recipe: Path(spec.recipe).read_text(encoding="utf-8") for spec in PIPELINES}
    results = Results(environment=_environment(jobs), settings=described, recipes=recipes, pipelines=[])
    if (output_dir / RESULTS_FILE).exists():
        results = _earlier(output_dir, results)
    with writing(output_dir):
        results.save(output_dir / RESULTS_FILE)
        for name, rows in (("train", train), ("held_out", held_out), ("evaluated", evaluated)):
            write_rows(rows, data / f"{name}.jsonl")
    if find_spec("matplotlib") is None:
        console.print('No figures: matplotlib is not installed (pip install -e ".[plots]").', markup=False)
    description, bar = TextColumn("{task.description:<36}"), BarColumn()
    with Progress(description, bar, MofNCompleteColumn(), TimeElapsedColumn(), console=console) as progress:
        _Bench(settings, output_dir, prompts, results, progress).run(jobs)
    with writing(output_dir):
        report = write_report(results, load_recipe(PIPELINES[0].recipe).objective, output_dir)
    for pipeline in results.pipelines:
        console.print()
        console.print(rich_table(pipeline))
    console.print(f"\nReport: {report}", soft_wrap=True)
    return results


@dataclass
class _Bench:
    """Fills `results`, and saves them as runs finish."""

    settings: Settings
    output_dir: Path
    prompts: list[FunctionRow]
    results: Results
    progress: Progress
    commands: Commands = field(default_factory=Commands)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, jobs: int) -> None:
        """Evaluate the missing starting points, then train the missing runs, seed by seed."""
        there = {pipeline.name for pipeline in self.results.pipelines}
        starts = [partial(self._evaluate_start, spec) for spec in PIPELINES if spec.name not in there]
        self.commands.side_by_side(starts, jobs)
        self.results.pipelines.sort(key=lambda one: [spec.name for spec in PIPELINES].index(one.name))
        runs = [
            partial(self._train, spec, pipeline, method, seed, self.settings.steps)
            for seed in self.settings.seeds
            for spec, pipeline in zip(PIPELINES, self.results.pipelines, strict=True)
            for method in spec.methods
            if seed not in (run.seed for run in pipeline.runs_of(method))
        ]
        self.commands.side_by_side(runs, jobs)
        longer = [
            partial(self._train, spec, pipeline, LONGER, seed, equal_time_steps(pipeline, seed))
            for seed in self.settings.seeds
            for spec, pipeline in zip(PIPELINES, self.results.pipelines, strict=True)
            if BASELINE in spec.methods and seed not in (run.seed for run in pipeline.runs_of(LONGER))
        ]
        self.commands.side_by_side(longer, jobs)

    def _evaluate_start(self, spec: PipelineSpec) -> None:
        task = self.progress.add_task(f"{spec.name}: teacher and start", total=1)
        recipe = load_recipe(spec.recipe)
        assert recipe.teacher is not None
        paths, log = [recipe.teacher.path, recipe.student.path], self.output_dir / spec.folder / "start.log"
        teacher, student = self._evaluate(spec, paths, log)
        completions = self._complete(Path(recipe.teacher.path), log)
        pipeline = Pipeline(
            name=spec.name, teacher=teacher, student=student, runs=[], completions=completions
        )
        with self.lock:
            self.results.pipelines.append(pipeline)
            self.results.save(self.output_dir / RESULTS_FILE)
        self.progress.update(task, completed=1)

    def _train(self, spec: PipelineSpec, pipeline: Pipeline, method: str, seed: int, steps: int) -> None:
        save_steps = max(steps // self.settings.evaluations, 1)
        folder = self.output_dir / spec.folder / f"{method.replace(', ', '-')}-seed{seed}"
        log = folder.with_suffix(".log")
        task = self.progress.add_task(f"{spec.name}: {method}, seed {seed}", total=steps)
        overrides = {
            "method": BASELINE if method == LONGER else method,
            "data.train": self.output_dir / "data" / "train.jsonl",
            "data.held_out": "null",  # Evaluated below, on the same functions as teacher and start.
            "training.seed": seed,
            "training.output_dir": folder,
            "training.max_steps": steps,
            "training.save_steps": save_steps,
            "training.save_total_limit": steps,  # All: an interrupted run has some more.
            "training.logging_steps": max(steps // 40, 1),
        }
        self.commands.run(
            *("tide", "distill", spec.recipe, "--resume"),
            *(f"{key}={value}" for key, value in overrides.items()),
            log=log,
            watch=lambda: self.progress.update(task, completed=steps_done(log, steps)),
        )
        # The checkpoint of the last step is the student itself.
        saved = range(save_steps, steps, save_steps)
        checkpoints = [*(str(folder / f"checkpoint-{step}") for step in saved), str(folder)]
        models = [pipeline.student, *self._evaluate(spec, checkpoints, log)]
        run = _run_of(
            json.loads((folder / "summary.json").read_text(encoding="utf-8")),
            method=method,
            seed=seed,
            held_out=dict(zip([0, *saved, steps], models, strict=True)),
            completions=self._complete(folder, log) if seed == self.settings.seeds[0] else [],
        )
        with self.lock:
            pipeline.runs.append(run)
            pipeline.runs.sort(key=lambda one: (one.seed, (*spec.methods, LONGER).index(one.method)))
            self.results.save(self.output_dir / RESULTS_FILE)
        for checkpoint in folder.glob("checkpoint-*"):
            if checkpoint.name.removeprefix("checkpoint-").isdigit():
                shutil.rmtree(checkpoint)
        self.progress.update(task, completed=steps)

    def _evaluate(self, spec: PipelineSpec, checkpoints: list[str], log: Path) -> list[Model]:
        rows = str(self.output_dir / "data" / "evaluated.jsonl")
        output = self.commands.run("examples.quickstart.evaluate", spec.recipe, rows, *checkpoints, log=log)
        return [Model.model_validate_json(line) for line in output.splitlines()]

    def _complete(self, student: Path, log: Path) -> list[Completion]:
        prompts = [row.prompt for row in self.prompts]
        options = ("--max-new-tokens", "96")
        text = self.commands.run("tide", "sample", str(student), *prompts, *options, log=log)
        found: list[Completion] = []
        # The output is prompt, completion, an empty line, the next prompt, ...
        for row in reversed(self.prompts):
            text, completion = text.rsplit(row.prompt, 1)
            completion = completion.rstrip() + "\n"
            found.insert(0, Completion(prompt=row.prompt, completion=completion, reference=row.completion))
        return found


def _run_of(
    summary: dict[str, Any],
    *,
    method: str,
    seed: int,
    held_out: dict[int, Model],
    completions: list[Completion],
) -> Run:
    """A run from its summary.json and the models at its evaluated steps."""
    logs = [entry for entry in summary["log_history"] if "loss" in entry]
    terms = dict.fromkeys(key for entry in logs for key in entry if key not in NOT_TERMS)
    return Run(
        method=method,
        seed=seed,
        steps=summary["steps"],
        evaluation=held_out[summary["steps"]].evaluation,
        seconds=summary["seconds"],
        peak_memory_mib=summary["peak_memory_mib"],
        tokens_per_second=sum(entry["tokens_per_second"] for entry in logs) / max(len(logs), 1),
        curves={
            term: [(entry["step"], float(entry[term])) for entry in logs if term in entry] for term in terms
        },
        held_out_curve=[(step, model.evaluation.loss) for step, model in held_out.items()],
        completions=completions,
    )


def equal_time_steps(pipeline: Pipeline, seed: int) -> int:
    """Steps of the baseline in the time of the seed's slowest method."""
    runs = {run.method: run for run in pipeline.runs if run.seed == seed and run.method != LONGER}
    slowest = max(run.seconds for run in runs.values())
    return round(runs[BASELINE].steps * slowest / runs[BASELINE].seconds)


def _choose(rows: list[FunctionRow], number: int) -> tuple[list[FunctionRow], list[FunctionRow]]:
    """Functions to evaluate on, spread evenly over the held-out modules, and two short ones to complete.

    Every tokenizer holds these functions whole, so that all models are asked for the same bytes.
    """
    max_bytes = 2 * min(load_recipe(spec.recipe).data.max_length for spec in PIPELINES)
    rows = [row for row in rows if len((row.prompt + row.completion).encode()) <= max_bytes]
    short = [
        row
        for row in rows
        if 40 < len(row.prompt) < 80 and 80 < len(row.completion) < 240 and "__" not in row.prompt
    ]
    # One from the middle of either half, so that the two are of different modules.
    prompts = [short[len(short) // 4], short[3 * len(short) // 4]] if short else rows[:2]
    return rows[:: max(len(rows) // number, 1)][:number], prompts


def _earlier(output_dir: Path, now: Results) -> Results:
    """The results of an interrupted quickstart, which must have the settings and recipes of this one."""
    earlier = Results.load(output_dir / RESULTS_FILE)
    before, after = earlier.settings | earlier.recipes, now.settings | now.recipes
    changed = [key for key in after if before.get(key) != after[key]]
    if changed:
        raise ValueError(
            f"{str(output_dir)!r} holds a quickstart with other settings ({', '.join(changed)}). Pass "
            "--fresh to delete it, or --output-dir for another place."
        )
    return earlier


def _environment(jobs: int) -> dict[str, str]:
    return {
        "tide": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "runs side by side": f"{jobs}, on one thread each",
        "system": platform.system(),
    }
