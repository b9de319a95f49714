"""Results and tables: the JSON form, and the aggregation over seeds by hand-computed numbers."""

from __future__ import annotations

import json
import math

import pytest
from rich.console import Console

from examples.quickstart.results import Results, Statistic, finding
from examples.quickstart.table import COLUMNS, caption, millions, rich_table, table
from tests.examples.samples import example, pipeline, run

HEADINGS = [column.heading for column in COLUMNS]


def cells(shown, heading: str) -> dict[str, tuple[str, str, bool]]:
    return {line.label: tuple(line.cells[HEADINGS.index(heading)]) for line in table(shown)}


@pytest.mark.parametrize("seeds", [1, 3])
def test_json_round_trip(seeds, tmp_path):
    results = example(seeds)
    results.save(tmp_path / "new" / "results.json")
    assert Results.load(tmp_path / "new" / "results.json") == results
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["results.json"]


def test_a_diverged_loss_is_read_back(tmp_path):
    results = example(seeds=1)
    results.pipelines[0].runs[0] = run("none", 0, math.nan)
    results.pipelines[0].runs[1] = run("kl", 0, math.inf)
    results.save(tmp_path / "results.json")
    none, kl, _ = Results.load(tmp_path / "results.json").pipelines[0].runs
    assert math.isnan(none.evaluation.loss) and kl.evaluation.loss == math.inf


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["settngs"], {}),
        (["pipelines", 0, "runs", 1, "seed"], "1"),
        (["pipelines", 0, "runs", 0, "seconds"], None),
        (["pipelines", 0, "runs", 0, "held_out_curve", 0], [1, 2, 3]),
        (["pipelines", 0, "student"], None),
    ],
)
def test_a_damaged_file_is_refused_by_its_key(path, value, tmp_path):
    document = json.loads(example().model_dump_json())
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (tmp_path / "results.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"results\.json: {'.'.join(map(str, path))}.*--fresh"):
        Results.load(tmp_path / "results.json")


def test_statistic_is_the_sample_standard_deviation():
    # Deviations of 2, 4, 9 from 5: squares 9 + 1 + 16 = 26, over n - 1 = 2.
    assert Statistic.of([2.0, 4.0, 9.0]) == (5.0, math.sqrt(13.0))
    assert Statistic.of([2.5]) == (2.5, None)


def test_table_by_hand():
    lines = table(pipeline())
    assert [line.label for line in lines] == ["teacher", "start", "none", "kl", "tide_shared"]
    assert [line.is_reference for line in lines] == [True, True, False, False, False]
    assert HEADINGS == ["t=0.25", "t=0.5", "t=0.75", "mean", "vs none", "accuracy", "time", "peak"]
    shown = {line.label: [f"{mean} {spread}".strip() for mean, spread, _ in line.cells] for line in lines}
    assert shown["teacher"] == ["0.200", "0.700", "1.200", "0.700", "-", "40.0", "-", "-"]
    losses = ["0.600 0.100", "1.100 0.100", "1.600 0.100", "1.100 0.100"]
    assert shown["none"] == [*losses, "-", "35.0 5.0", "31 1", "700 0"]
    assert shown["kl"][4] == "+0.0500 0.0000"
    # Differences -0.1, -0.04, -0.06; squares of the deviations (10 + 6.4 + 0.4) / 9000, over 2.
    assert shown["tide_shared"][3:] == ["1.033 0.130", "-0.0667 0.0306", "38.3 6.5", "31 1", "700 0"]
    # The teacher is better on all of them and is not a method; time and memory have no winner.
    best = [[line.label for line in lines if line.cells[at].best] for at in range(len(COLUMNS))]
    assert best == [["tide_shared"]] * 6 + [[]] * 2


def test_differences_pair_by_seed():
    runs = [run("kl", 2, 1.0), run("none", 1, 1.5), run("kl", 1, 1.3), run("none", 0, 9.0)]
    partial = pipeline(runs=runs)
    assert partial.differences("kl") == {1: pytest.approx(-0.2)}
    assert partial.differences("none") == {}
    assert cells(partial, "vs none")["kl"] == ("-0.2000", "", True)
    assert cells(pipeline(runs=[run("kl", 2, 1.0)]), "vs none")["kl"] == ("-", "", False)


@pytest.mark.parametrize(
    ("losses", "heading", "best"),
    [
        ({"none": 1.0, "kl": 1.1}, "vs none", []),
        ({"none": 1.0, "kl": 1.1}, "mean", ["none"]),
        ({"none": 1.0, "kl": 1.0001}, "mean", ["none", "kl"]),
        ({"none": math.nan, "kl": 1.1}, "mean", ["kl"]),
        ({"none": 1.0}, "mean", []),
    ],
)
def test_the_best_methods_of_a_column(losses, heading, best):
    shown = pipeline(runs=[run(method, 0, loss) for method, loss in losses.items()])
    assert [label for label, cell in cells(shown, heading).items() if cell[2]] == best


def test_a_mean_that_rounds_to_zero_has_no_minus():
    assert COLUMNS[HEADINGS.index("vs none")].text(-0.00001) == "+0.0000"


def printed(shown) -> str:
    console = Console(width=100, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(rich_table(shown))
    return capture.get()


def test_terminal_table_fits_100_columns_with_every_number():
    slow = [
        one.model_copy(
            update={"seconds": 36000.0, "peak_memory_mib": 99999.0, "method": f"{one.method}_long"}
        )
        for one in pipeline().runs
        if one.method != "none"
    ]
    wide = pipeline(runs=[*pipeline().runs, *slow])
    text = printed(wide)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    assert "…" not in text
    for line in table(wide):
        for mean, spread, _ in line.cells:
            assert mean in text and (not spread or f"±{spread}" in text)


def test_one_seed_has_no_spread():
    assert "±" not in printed(pipeline(seeds=1)) and "one seed" in caption(pipeline(seeds=1))
    assert "over 3 seeds" in caption(pipeline())


@pytest.mark.parametrize(("count", "text"), [(950_400, "950k"), (1_050_624, "1.05M"), (6_312_448, "6.3M")])
def test_millions(count, text):
    assert millions(count) == text


def test_findings_by_hand():
    assert finding(pipeline()).startswith("tide_shared lowers held-out loss by 0.0667 ± 0.0306")
    assert finding(pipeline()).endswith("in 3 of 3 seeds.")
    assert finding(pipeline(seeds=1)).endswith("by 0.1000 nats per byte against none, in one seed.")
    runs = [run("none", 0, 1.0), run("none", 1, 1.0), run("kl", 0, 0.7), run("kl", 1, 1.1)]
    assert "in 1 of 2 seeds" in finding(pipeline(runs=runs))
    worse = finding(pipeline(runs=[run("none", 0, 1.0), run("kl", 0, 1.05)]))
    assert worse.startswith("No method beats none; kl comes closest, at +0.0500")
    for runs in ([run("kl", 0, 1.0)], [run("none", 0, 1.0), run("kl", 0, math.nan)], []):
        assert "can be compared" in finding(pipeline(runs=runs))
