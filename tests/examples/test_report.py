"""Report: it has every number of the tables, loads nothing from outside, and model output stays text."""

from __future__ import annotations

import base64
import dataclasses
import math
import sys

import pytest

from tests.pages import Page
from tests.quickstart.test_results import example, pipeline, run
from tide.quickstart.report import finding, render_report, write_report
from tide.quickstart.results import Completion, Results
from tide.quickstart.table import COLUMNS, rows


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    results = dataclasses.replace(example(), pipelines=[pipeline()])
    path = write_report(results, tmp_path_factory.mktemp("report"))
    names = {"report.html", "differences.png", "lambda.png", "curves-same-tokenizer.png"}
    assert {file.name for file in path.parent.iterdir()} == names
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_number_of_the_tables_in_order(seeds: int) -> None:
    results = example(seeds)
    page = Page(render_report(results, {}))
    expected = []
    for shown in results.pipelines:
        for line in rows(shown):
            for column, statistic in zip(COLUMNS, line.statistics, strict=True):
                text = column.mean_text(statistic)
                if seeds > 1 and statistic is not None and not line.reference:
                    text += f"± {column.spread_text(statistic)}"
                expected.append(text)
        expected += every_run(shown)
    assert [text.replace(" (best)", "") for text in page.texts["td"]] == expected


def every_run(shown) -> list[str]:
    """Cells of the table of single runs, from the losses that `pipeline` was made with."""
    losses = {"none": (1.0, 1.2, 1.1), "kl": (1.05, 1.25, 1.15), "tide_shared": (0.9, 1.16, 1.04)}
    out = []
    for method, values in losses.items():
        for seed, value in enumerate(values[: len(shown.runs_of(method))]):
            difference = "-" if method == "none" else f"{value - losses['none'][seed]:+.4f}"
            out += [str(seed), f"{value:.4f}", difference, "12346", f"{30 + seed:.1f}", "700"]
    return out


def test_the_best_of_each_column_is_marked() -> None:
    page = Page(render_report(example(), {}))
    best = ["0.533", "1.033", "1.533", "1.033", "-0.0667", "38.3"]
    assert page.texts["strong"] == [f"{figure} (best)" for figure in best] * 2


def test_nothing_is_loaded_from_outside(written: str) -> None:
    page = Page(written)
    assert "http://" not in written and "https://" not in written
    assert "url(" not in written and "@import" not in written
    assert {"script", "link", "iframe", "object", "embed", "base"}.isdisjoint(page.tags)
    loads = [
        value for _, name, value in page.attributes if name in {"src", "srcset", "href", "data", "poster"}
    ]
    assert len(loads) == len(set(loads)) == 6  # three figures, each for a light and a dark page
    for load in loads:
        assert load.startswith("data:image/png;base64,")
        assert base64.b64decode(load.split(",", 1)[1]).startswith(b"\x89PNG\r\n\x1a\n")
    policy = [value for tag, name, value in page.attributes if tag == "meta" and name == "content"]
    assert any(value.startswith("default-src 'none'") for value in policy)
    assert not any(name.startswith("on") for _, name, _ in page.attributes)


def test_every_image_has_words_beside_it(written: str) -> None:
    page = Page(written)
    words = [value for tag, name, value in page.attributes if tag == "img" and name == "alt"]
    assert len(words) == 3 and all(len(text) > 20 for text in words)


def test_model_output_and_names_stay_text() -> None:
    hostile = '</code></pre><script>alert(1)</script><img src="https://x.example/y">&lt;"\'\n\tif a < b & c:'
    completion = Completion("def f(a):\n    # <b>\n", hostile, "    return a < 1 & 2\n")
    runs = [dataclasses.replace(run("none", 0, 1.0), completions=[completion]), run("<i>kl", 0, 1.1)]
    shown = dataclasses.replace(pipeline("<u>odd"), runs=runs)
    text = render_report(
        Results({"cpu": "<A> & B"}, {"note": "<em>"}, [shown]), {}, commands=["make <x> && y"]
    )
    page = Page(text)
    assert {"script", "img", "i", "u", "em"}.isdisjoint(page.tags)
    for original in (hostile, "def f(a):\n    # <b>\n", "    return a < 1 & 2\n", "make <x> && y"):
        assert original in page.texts["code"]
    assert "<A> & B" in page.texts["dd"] and "<em>" in page.texts["dd"]


def test_completions_stand_beside_the_reference() -> None:
    page = Page(render_report(example(), {}))
    assert page.texts["h4"] == ["reference", "none", "kl", "tide_shared"] * 2
    assert page.texts["code"][:5] == [
        "def f(x):\n",
        "    return x\n",
        "    return x < 0 & 'none'\n",
        "    return x < 0 & 'kl'\n",
        "    return x < 0 & 'tide_shared'\n",
    ]


def test_settings_environment_and_commands_are_stated() -> None:
    page = Page(render_report(example(), {}, commands=["make quickstart", "tide quickstart --full"]))
    stated = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert (
        stated["learning rate"] == "0.0005" and stated["seeds"] == "0, 1, 2" and stated["cpu"] == "A & B <C>"
    )
    assert stated["students trained"] == "18"
    assert stated["training time, summed over runs"] == "9 min 18 s"  # 6 methods, seeds of 30, 31 and 32 s
    assert "tide_shared" in stated
    assert page.texts["code"][-1] == "make quickstart\ntide quickstart --full"


def test_findings_by_hand() -> None:
    assert finding(pipeline()) == (
        "tide_shared lowers held-out loss by 0.0667 ± 0.0306 nats per byte against none, in 3 of 3 seeds."
    )
    assert finding(pipeline(seeds=1)) == (
        "tide_shared lowers held-out loss by 0.1000 nats per byte against none, in one seed."
    )
    runs = [run("none", 0, 1.0), run("none", 1, 1.0), run("kl", 0, 0.7), run("kl", 1, 1.1)]
    assert "in 1 of 2 seeds" in finding(dataclasses.replace(pipeline(), runs=runs))
    worse = dataclasses.replace(pipeline(), runs=[run("none", 0, 1.0), run("kl", 0, 1.05)])
    assert finding(worse) == "No method beats none; kl comes closest, at +0.0500 nats per byte to it."
    for runs in ([run("kl", 0, 1.0)], [run("none", 0, 1.0), run("kl", 0, math.nan)], []):
        assert (
            finding(dataclasses.replace(pipeline(), runs=runs)) == "No method can be compared with none yet."
        )


def test_a_run_without_students_still_reports() -> None:
    empty = dataclasses.replace(pipeline(), runs=[], teacher_evaluation=None)
    page = Page(render_report(Results({}, {}, [empty]), {}))
    assert page.texts["td"] == ["1.500", "2.000", "2.500", "2.000", "-", "40.0", "-", "-"]


def test_without_matplotlib_the_report_says_what_to_install(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for module in ("tide.quickstart.plots", "tide.presentation.figures"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    # `from tide.quickstart import plots` takes the package's attribute before it imports anything.
    monkeypatch.delattr(sys.modules["tide.quickstart"], "plots", raising=False)
    page = Page(write_report(example(), tmp_path).read_text(encoding="utf-8"))
    assert any('pip install -e ".[plots]"' in text for text in page.texts["p"])
    assert "img" not in page.tags and len(page.texts["td"]) > 50
