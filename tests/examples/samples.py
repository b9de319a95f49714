"""Results of a quickstart, made up so that every figure can be computed by hand."""

from __future__ import annotations

from examples.quickstart.results import Bound, Completion, Evaluation, Model, Pipeline, Results, Run
from tide.config import ObjectiveConfig

LOSSES = {"none": (1.0, 1.2, 1.1), "kl": (1.05, 1.25, 1.15), "tide_shared": (0.9, 1.16, 1.04)}
TERMS = {"none": None, "kl": "forward_kl", "tide_shared": "tidal"}
OBJECTIVE = ObjectiveConfig()


def evaluation(mean: float, accuracy: float = 0.4) -> Evaluation:
    """A bound of mean, losses 0.5 apart around it, and accuracies 0.1 apart around `accuracy`."""
    return Evaluation(
        bound=Bound(nats_per_byte=mean, standard_error=0.1, mask_error=0.01),
        nats_per_byte={0.25: mean - 0.5, 0.5: mean, 0.75: mean + 0.5},
        accuracy={0.25: accuracy + 0.1, 0.5: accuracy, 0.75: accuracy - 0.1},
        num_tokens=1000,
        num_bytes=3500,
        num_texts=9,
    )


def run(method: str, seed: int, mean: float, term: str | None = None) -> Run:
    """A run with a held-out loss of `mean`."""
    curves = {"cross_entropy": [(0, 3.0), (10, 2.0), (20, 1.0)]}
    if term:
        curves[term] = [(0, 0.0), (10, 1.5), (20, 3.0)]
    written = f"    return x < {seed} & '{method}'\n"
    completion = Completion(prompt="def f(x):\n", completion=written, reference="    return x\n")
    return Run(
        method=method,
        seed=seed,
        steps=20,
        evaluation=evaluation(mean, accuracy=0.9 - mean / 2),
        seconds=30.0 + seed,
        peak_memory_mib=700.0,
        tokens_per_second=12345.6,
        curves=curves,
        held_out_curve=[(0, 2.0), (20, mean)],
        completions=[completion] if seed == 0 else [],
    )


def pipeline(name: str = "same tokenizer", seeds: int = 3, runs: list[Run] | None = None) -> Pipeline:
    """`LOSSES` by method and seed, or these runs."""
    if runs is None:
        runs = [run(m, seed, LOSSES[m][seed], TERMS[m]) for m in LOSSES for seed in range(seeds)]
    return Pipeline(
        name=name,
        student=model("student", 1_050_000, 2.0),
        teacher=model("teacher", 6_300_000, 0.7),
        runs=runs,
        completions=[
            Completion(prompt="def f(x):\n", completion="    return 2\n", reference="    return x\n")
        ],
    )


def model(name: str, parameters: int, loss: float) -> Model:
    """A checkpoint with this held-out loss."""
    return Model(name=name, parameters=parameters, vocabulary_size=4096, evaluation=evaluation(loss))


def example(seeds: int = 3) -> Results:
    """Two pipelines of the same runs."""
    return Results(
        environment={"python": "3.11", "cpu": "A & B <C>"},
        settings={"steps": "20", "seeds": ", ".join(map(str, range(seeds)))},
        recipes={"a.yaml": "method: kl  # <b>\n"},
        pipelines=[pipeline(seeds=seeds), pipeline("cross tokenizer", seeds=seeds)],
    )
