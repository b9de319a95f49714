"""Results: the JSON form, and the aggregation over seeds by hand-computed numbers."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from rich.console import Console

from tide.quickstart.results import (
    Completion,
    CurvePoint,
    Evaluation,
    HeatMap,
    ModelFacts,
    Pipeline,
    Results,
    Run,
)
from tide.quickstart.table import (
    COLUMNS,
    Statistic,
    best_rows,
    markdown_table,
    millions,
    paired_differences,
    rich_table,
    rows,
    seeds_note,
)

HEADINGS = [column.heading for column in COLUMNS]


def evaluation(mean: float, accuracy: float = 0.4) -> Evaluation:
    """Losses mean - 0.5, mean and mean + 0.5 at the three times; accuracies 0.1 apart around `accuracy`."""
    return Evaluation(
        nats_per_byte={"0.25": mean - 0.5, "0.5": mean, "0.75": mean + 0.5},
        accuracy={"0.25": accuracy + 0.1, "0.5": accuracy, "0.75": accuracy - 0.1},
        tokens=1000,
        bytes=3500,
    )


def run(method: str, seed: int, mean: float, term: str | None = None) -> Run:
    terms = [
        {"cross_entropy": 3.0 - step, **({term: 1.5 * step} if term else {})} for step in (0.0, 1.0, 2.0)
    ]
    return Run(
        method=method,
        seed=seed,
        evaluation=evaluation(mean, accuracy=0.9 - mean / 2),
        seconds=30.0 + seed,
        peak_memory_mib=700.0,
        tokens_per_second=12345.6,
        curve=[CurvePoint(10 * step, values) for step, values in enumerate(terms)],
        held_out_curve=[(0, 2.0), (20, mean)],
        completions=[Completion("def f(x):\n", f"    return x < {seed} & '{method}'\n", "    return x\n")]
        if seed == 0
        else [],
    )


def pipeline(name: str = "same tokenizer", seeds: int = 3) -> Pipeline:
    """none: 1.0, 1.2, 1.1; kl: 1.05, 1.25, 1.15; tide_shared: 0.9, 1.16, 1.04 (means over t, by seed)."""
    losses = {"none": (1.0, 1.2, 1.1), "kl": (1.05, 1.25, 1.15), "tide_shared": (0.9, 1.16, 1.04)}
    terms = {"none": None, "kl": "forward_kl", "tide_shared": "tidal"}
    return Pipeline(
        name=name,
        student=ModelFacts("student", 1_050_000, 2048),
        teacher=ModelFacts("teacher", 6_300_000, 4096),
        teacher_evaluation=evaluation(0.7),
        start_evaluation=evaluation(2.0),
        runs=[run(m, seed, losses[m][seed], terms[m]) for m in losses for seed in range(seeds)],
    )


def example(seeds: int = 3) -> Results:
    return Results(
        environment={"python": "3.11", "cpu": "A & B <C>"},
        settings={"steps": 20, "learning_rate": 5e-4, "seeds": list(range(seeds)), "full": False},
        pipelines=[pipeline(seeds=seeds), pipeline("cross tokenizer", seeds=seeds)],
        heat_map=HeatMap(lambda_init=0.2),
    )


def figure(lines: list, label: str, heading: str) -> Statistic | None:
    return next(line for line in lines if line.label == label).statistics[HEADINGS.index(heading)]


@pytest.mark.parametrize("seeds", [1, 3])
def test_json_round_trip(seeds: int, tmp_path) -> None:
    results = example(seeds)
    assert Results.from_json(results.to_json()) == results
    path = results.save(tmp_path / "new" / "results.json")
    assert Results.load(path) == results
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_json_keeps_types_and_tuples() -> None:
    again = Results.from_json(example().to_json())
    assert again.settings == {"steps": 20, "learning_rate": 5e-4, "seeds": [0, 1, 2], "full": False}
    assert [type(value) for value in again.settings.values()] == [int, float, list, bool]
    assert again.pipelines[0].runs[0].held_out_curve == [(0, 2.0), (20, 1.0)]
    assert isinstance(again.pipelines[0].runs[0].held_out_curve[0], tuple)


def test_a_diverged_loss_survives_standard_json() -> None:
    base = example(seeds=1)
    worst = dataclasses.replace(
        base.pipelines[0].runs[0],
        evaluation=Evaluation(
            {"0.25": math.nan, "0.5": math.inf, "0.75": -math.inf}, evaluation(1.0).accuracy, 1, 1
        ),
    )
    results = dataclasses.replace(base, pipelines=[dataclasses.replace(base.pipelines[0], runs=[worst])])
    text = results.to_json()
    assert "NaN" not in text and "Infinity" not in text
    losses = Results.from_json(text).pipelines[0].runs[0].evaluation.nats_per_byte
    assert math.isnan(losses["0.25"]) and losses["0.5"] == math.inf and losses["0.75"] == -math.inf


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["settngs"], {}, "results has no field 'settngs'. Did you mean 'settings'?"),
        (
            ["pipelines", 0, "runs", 1, "seed"],
            "1",
            r"results.pipelines\[0\].runs\[1\].seed must be int; got str",
        ),
        (["pipelines", 0, "runs", 0, "seed"], True, "seed must be int; got bool"),
        (["pipelines", 0, "runs", 0, "seconds"], None, "seconds must be float; got NoneType"),
        (["pipelines", 0, "runs", 0, "held_out_curve", 0], [1, 2, 3], "must be tuple"),
        (["pipelines", 0, "teacher_evaluation"], 3, "must be Evaluation or NoneType; got int 3"),
        (["pipelines", 0, "start_evaluation"], None, "must be Evaluation; got NoneType"),
        (["pipelines", 0, "runs", 0, "evaluation", "accuracy"], {"0.5": 1.0}, "one value per diffusion time"),
        (["settings", "steps"], {"a": 1}, "settings.steps must be bool or int or float or str or list"),
        (["pipelines", 1, "name"], "Same-tokenizer", "told apart by the letters and digits"),
    ],
)
def test_json_refuses(path: list, value: object, message: str) -> None:
    document = json.loads(example().to_json())
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        Results.from_json(json.dumps(document))


def test_json_refuses_missing_fields_and_broken_text(tmp_path) -> None:
    document = json.loads(example().to_json())
    del document["pipelines"][0]["student"]
    with pytest.raises(ValueError, match=r"results.pipelines\[0\] lacks 'student'"):
        Results.from_json(json.dumps(document))
    with pytest.raises(ValueError, match="not JSON"):
        Results.from_json(example().to_json()[:-20])
    with pytest.raises(ValueError, match=r"NaN is not standard JSON"):
        Results.from_json('{"settings": NaN}')
    with pytest.raises(ValueError, match=r"no file .*Run the quickstart first"):
        Results.load(tmp_path / "results.json")
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ValueError, match=r"results\.json: .*results must be Results; got list"):
        Results.load(tmp_path / "results.json")


def test_two_runs_of_one_method_and_seed_are_refused() -> None:
    with pytest.raises(ValueError, match="method 'kl', seed 0 twice"):
        dataclasses.replace(pipeline(), runs=[run("kl", 0, 1.0), run("kl", 0, 1.1)])


def test_statistic_is_the_sample_standard_deviation() -> None:
    # Deviations of 2, 4, 9 from 5: squares 9 + 1 + 16 = 26, over n - 1 = 2.
    assert Statistic.of([2.0, 4.0, 9.0]) == Statistic(5.0, math.sqrt(13.0), 3)
    assert Statistic.of([2.5]) == Statistic(2.5, None, 1)
    assert math.isnan(Statistic.of([1.0, math.nan]).mean)
    with pytest.raises(ValueError, match="at least one value"):
        Statistic.of([])


def test_rows_by_hand() -> None:
    lines = rows(pipeline())
    assert [line.label for line in lines] == ["teacher", "start", "none", "kl", "tide_shared"]
    assert [line.reference for line in lines] == [True, True, False, False, False]
    expected = {
        ("none", "t=0.25"): (0.6, 0.1),
        ("none", "t=0.75"): (1.6, 0.1),
        ("none", "mean"): (1.1, 0.1),
        ("none", "accuracy"): (35.0, 5.0),  # 0.9 - 1.1 / 2; spread 100 * 0.1 / 2
        ("none", "time"): (31.0, 1.0),
        ("none", "peak"): (700.0, 0.0),
        ("kl", "vs none"): (0.05, 0.0),
        # Differences -0.1, -0.04, -0.06; squares of the deviations (10 + 6.4 + 0.4) / 9000, over 2.
        ("tide_shared", "vs none"): (-0.2 / 3, math.sqrt(16.8 / 9000 / 2)),
        ("tide_shared", "mean"): (3.1 / 3, math.sqrt(0.0338666667 / 2)),
    }
    for (label, heading), (mean, spread) in expected.items():
        statistic = figure(lines, label, heading)
        assert statistic is not None and statistic.count == 3
        assert statistic.mean == pytest.approx(mean, abs=1e-9), (label, heading)
        assert statistic.spread == pytest.approx(spread, abs=1e-8), (label, heading)
    assert figure(lines, "none", "vs none") is None
    assert figure(lines, "teacher", "mean") == Statistic(pytest.approx(0.7), None, 1)
    assert figure(lines, "start", "accuracy") == Statistic(pytest.approx(40.0), None, 1)
    assert figure(lines, "teacher", "time") is None


def test_differences_pair_by_seed_and_skip_what_has_no_partner() -> None:
    runs = [run("kl", 2, 1.0), run("none", 1, 1.5), run("kl", 1, 1.3), run("none", 0, 9.0)]
    partial = dataclasses.replace(pipeline(), runs=runs)
    assert paired_differences(partial, "kl") == {1: pytest.approx(-0.2)}
    assert paired_differences(partial, "none") == {}
    assert figure(rows(partial), "kl", "vs none") == Statistic(pytest.approx(-0.2), None, 1)
    alone = dataclasses.replace(pipeline(), runs=[run("kl", 2, 1.0)])
    assert figure(rows(alone), "kl", "vs none") is None


def test_best_rows() -> None:
    lines = rows(pipeline())
    best = [best_rows(lines, index) for index in range(len(HEADINGS))]
    # The teacher (line 0) is better on all of them and is not a method; time and memory have no winner.
    assert HEADINGS == ["t=0.25", "t=0.5", "t=0.75", "mean", "vs none", "accuracy", "time", "peak"]
    assert best == [{4}] * 6 + [set()] * 2
    worse = dataclasses.replace(pipeline(), runs=[run("none", 0, 1.0), run("kl", 0, 1.1)])
    assert best_rows(rows(worse), HEADINGS.index("vs none")) == set()
    assert best_rows(rows(worse), HEADINGS.index("mean")) == {2}
    tied = dataclasses.replace(pipeline(), runs=[run("none", 0, 1.0), run("kl", 0, 1.0001)])
    assert best_rows(rows(tied), HEADINGS.index("mean")) == {2, 3}
    diverged = dataclasses.replace(pipeline(), runs=[run("none", 0, math.nan), run("kl", 0, 1.1)])
    assert best_rows(rows(diverged), HEADINGS.index("mean")) == {3}
    alone = dataclasses.replace(pipeline(), runs=[run("none", 0, 1.0)])
    assert best_rows(rows(alone), HEADINGS.index("mean")) == set()


def test_markdown_by_hand() -> None:
    lines = markdown_table(pipeline()).splitlines()
    assert lines[0].startswith("| method | t=0.25 (nats/byte) | t=0.5 (nats/byte) |")
    assert lines[1] == "| :-- |" + " --: |" * len(COLUMNS)
    assert lines[2] == "| *teacher* | 0.200 | 0.700 | 1.200 | 0.700 | - | 40.0 | - | - |"
    assert lines[4] == (
        "| `none` | 0.600 ± 0.100 | 1.100 ± 0.100 | 1.600 ± 0.100 | 1.100 ± 0.100 | - | 35.0 ± 5.0 | 31 ± 1 "
        "| 700 ± 0 |"
    )
    assert lines[6] == (
        "| `tide_shared` | **0.533** ± 0.130 | **1.033** ± 0.130 | **1.533** ± 0.130 | **1.033** ± 0.130 "
        "| **-0.0667** ± 0.0306 | **38.3** ± 6.5 | 31 ± 1 | 700 ± 0 |"
    )


def test_one_seed_has_no_spread() -> None:
    single = pipeline(seeds=1)
    assert "| `kl` | 0.550 ± - | 1.050 ± - | 1.550 ± - | 1.050 ± - | +0.0500 ± - |" in markdown_table(single)
    assert seeds_note(single) == "one seed per method, so no spread (-)"
    text = printed(single)
    assert "±" not in text and "no spread (-)" in text


def printed(shown: Pipeline, width: int = 100) -> str:
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(rich_table(shown))
    return capture.get()


def test_terminal_table_fits_100_columns_with_every_number() -> None:
    slow = [
        dataclasses.replace(entry, seconds=36000.0, peak_memory_mib=99999.0, method=f"{entry.method}_longer")
        for entry in pipeline().runs
        if entry.method != "none"
    ]
    wide = dataclasses.replace(pipeline(), runs=[*pipeline().runs, *slow])
    text = printed(wide)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    assert "…" not in text
    for line in rows(wide):
        for column, statistic in zip(COLUMNS, line.statistics, strict=True):
            assert column.mean_text(statistic) in text
            if statistic is not None and not line.reference:
                assert "±" + column.spread_text(statistic) in text


def test_the_caption_breaks_between_sentences() -> None:
    last = [line.rstrip() for line in printed(pipeline()).splitlines() if line.strip()][-2:]
    assert last == [
        "Held-out loss and accuracy: mean ± sample standard deviation over 3 seeds.",
        "Bold: best method.",
    ]


def test_a_mean_that_rounds_to_zero_has_no_minus() -> None:
    column = COLUMNS[HEADINGS.index("vs none")]
    assert column.mean_text(Statistic(-0.00001, None, 1)) == "+0.0000"


@pytest.mark.parametrize(("count", "text"), [(950_400, "950k"), (1_050_624, "1.05M"), (6_312_448, "6.3M")])
def test_millions(count: int, text: str) -> None:
    assert millions(count) == text


def test_terms_shared_and_own() -> None:
    assert pipeline().shared_term() == "cross_entropy"
    assert pipeline().own_terms() == [("kl", "forward_kl"), ("tide_shared", "tidal")]
    assert pipeline().runs_of("kl")[0].term_curve("forward_kl") == [(0, 0.0), (10, 1.5), (20, 3.0)]
    empty = dataclasses.replace(pipeline(), runs=[])
    assert (empty.shared_term(), empty.own_terms(), empty.methods) == (None, [], [])
