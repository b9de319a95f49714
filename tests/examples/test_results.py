"""Results and tables: the JSON form, and the aggregation over seeds by hand-computed numbers."""

from __future__ import annotations

import json
import math

import pytest
from rich.console import Console

from examples.quickstart.results import LONGER, Results, Statistic, finding
from examples.quickstart.run import equal_time_steps
from examples.quickstart.table import COLUMNS, caption, millions, rich_table, table
from tests.examples.samples import example, model, pipeline, run

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
    assert Statistic.of([2.0, 4.0, 9.0])[:2] == (5.0, math.sqrt(13.0))
    assert Statistic.of([2.5]) == (2.5, None, None)


def test_the_interval_is_students():
    # t(0.975; 2) = 4.303, times sqrt(13 / 3).
    assert Statistic.of([2.0, 4.0, 9.0]).interval == pytest.approx(4.3027 * math.sqrt(13 / 3), rel=1e-4)
    assert Statistic.of([1.0, 3.0]).interval == pytest.approx(12.7062, rel=1e-4)
    assert Statistic.of([1.0, 3.0]).holds_zero and not Statistic.of([1.0, 1.1]).holds_zero
    many = Statistic.of([0.0, 1.0] * 50)
    assert many.interval == pytest.approx(2.2281 * many.spread / 10, rel=1e-4)  # of 10 degrees of freedom
    assert not Statistic.of([1.0]).holds_zero


def test_table_by_hand():
    lines = table(pipeline())
    assert [line.label for line in lines] == ["teacher", "start", "none", "kl", "tide_shared"]
    assert [line.is_reference for line in lines] == [True, True, False, False, False]
    times = ["t=0.25", "t=0.5", "t=0.75"]
    differences = ["vs none", "vs none, longer"]
    assert ["gap closed", "bound", *times, *differences, "accuracy", "time", "peak"] == HEADINGS
    shown = {line.label: [" ".join(filter(None, cell[:3])) for cell in line.cells] for line in lines}
    assert shown["teacher"] == ["100.0", "0.700", "0.200", "0.700", "1.200", "-", "-", "40.0", "-", "-"]
    losses = ["1.100 0.100", "0.600 0.100", "1.100 0.100", "1.600 0.100"]
    # Of a gap of 2 - 0.7, the runs close 1, 0.8 and 0.9.
    assert shown["none"] == ["69.2 7.7", *losses, "-", "-", "35.0 5.0", "31 1", "700 <1"]
    assert shown["kl"][5] == "+0.0500 <0.0001"
    # Differences -0.1, -0.04, -0.06; squares of the deviations (10 + 6.4 + 0.4) / 9000, over 2; the interval
    # is 4.303 / sqrt(3) of that.
    assert shown["tide_shared"][5] == "-0.0667 0.0759 n.s."
    assert shown["tide_shared"][6:] == ["-", "38.3 6.5", "31 1", "700 <1"]
    # The teacher is better on all of them and is not a method; time and memory have no winner.
    best = [[line.label for line in lines if line.cells[at].best] for at in range(len(COLUMNS))]
    assert best == [["tide_shared"]] * 5 + [[]] * 2 + [["tide_shared"]] + [[]] * 2


def test_the_baseline_at_equal_time_by_hand():
    longer = [run(LONGER, seed, loss) for seed, loss in enumerate((0.95, 1.15, 1.05))]
    shown = pipeline(runs=[*pipeline().runs, *longer])
    assert cells(shown, "vs none")[LONGER][:3] == ("-0.0500", "<0.0001", "")
    assert cells(shown, "vs none, longer")["none"][:3] == ("+0.0500", "<0.0001", "")
    # -0.05, 0.01, -0.01: mean -0.05 / 3, standard deviation 0.0306.
    assert cells(shown, "vs none, longer")["tide_shared"][:3] == ("-0.0167", "0.0759", "n.s.")
    assert cells(shown, "vs none, longer")[LONGER][0] == "-"


def test_equal_time_is_the_slowest_methods():
    runs = [run(method, 1, 1.0) for method in ("none", "kl", "tide_shared")]
    seconds = (20.0, 50.0, 30.0)
    timed = [one.model_copy(update={"seconds": s}) for one, s in zip(runs, seconds, strict=True)]
    assert equal_time_steps(pipeline(runs=[*timed, run("none", 0, 1.0)]), 1) == 50  # 20 steps * 50 s / 20 s


def test_differences_pair_by_seed():
    runs = [run("kl", 2, 1.0), run("none", 1, 1.5), run("kl", 1, 1.3), run("none", 0, 9.0)]
    partial = pipeline(runs=runs)
    assert partial.differences("kl") == {1: pytest.approx(-0.2)}
    assert partial.differences("none") == {}
    assert cells(partial, "vs none")["kl"] == ("-0.2000", "", "", False)
    assert cells(pipeline(runs=[run("kl", 2, 1.0)]), "vs none")["kl"] == ("-", "", "", False)


@pytest.mark.parametrize(
    ("losses", "heading", "best"),
    [
        ({"none": 1.0, "kl": 0.9}, "vs none", []),
        ({"none": 1.0, "kl": 1.1}, "bound", ["none"]),
        ({"none": 1.0, "kl": 1.0001}, "bound", []),
        ({"none": math.nan, "kl": 1.1}, "bound", ["kl"]),
        ({"none": 1.0}, "bound", []),
    ],
)
def test_the_best_methods_of_a_column(losses, heading, best):
    shown = pipeline(runs=[run(method, 0, loss) for method, loss in losses.items()])
    assert [label for label, cell in cells(shown, heading).items() if cell[3]] == best


def test_a_mean_that_rounds_to_zero_has_no_minus():
    assert COLUMNS[HEADINGS.index("vs none")].text(-0.00001) == "+0.0000"


def printed(shown) -> str:
    console = Console(width=80, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(rich_table(shown))
    return capture.get()


def test_terminal_table_fits_80_columns_with_every_number():
    slow = [
        one.model_copy(
            update={"seconds": 36000.0, "method": LONGER if one.method == "kl" else f"{one.method}_l"}
        )
        for one in pipeline().runs
        if one.method != "none"
    ]
    wide = pipeline(runs=[*pipeline().runs, *slow])
    text = printed(wide)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "…" not in text and "36000" in text
    for line in table(wide):
        for column, cell in zip(COLUMNS, line.cells, strict=True):
            if not column.is_detail:
                assert cell.mean in text and (not cell.spread or f"±{cell.spread}" in text)


def test_one_seed_has_no_spread():
    assert "±" not in printed(pipeline(seeds=1)) and "One seed" in caption(pipeline(seeds=1))
    assert "over 3 seeds" in caption(pipeline())


@pytest.mark.parametrize(("count", "text"), [(950_400, "950k"), (1_050_624, "1.05M"), (6_312_448, "6.3M")])
def test_millions(count, text):
    assert millions(count) == text


def test_findings_by_hand():
    head = "Gap to the teacher closed (points against none, ± 95 % interval): "
    assert finding(pipeline()) == (
        head + "none 69.2 %; kl 65.4 % (-3.8 ± <0.1); tide_shared 74.4 % (+5.1 ± 5.8, not significant)."
    )
    one = finding(pipeline(seeds=1))
    assert "one seed): none 76.9 %; kl 73.1 % (-3.8); tide_shared 84.6 % (+7.7)." in one
    diverged = finding(pipeline(runs=[run("none", 0, 1.0), run("kl", 0, math.nan)]))
    assert diverged.endswith("none 76.9 %; kl diverged.")
    assert finding(pipeline(runs=[])) == "No student is trained yet."
    worse = pipeline().model_copy(update={"teacher": model("teacher", 6_300_000, 2.0)})
    assert "no gap" in finding(worse) and cells(worse, "gap closed")["kl"][0] == "nan"
