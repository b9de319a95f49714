"""The report holds every number of the tables, loads nothing from outside, and shows model output as text."""

from __future__ import annotations

import base64
import sys

import pytest

from examples.quickstart.report import CAVEAT, render_report, write_report
from examples.quickstart.results import Completion, Results
from examples.quickstart.table import table
from tests.browser import open_page
from tests.examples.samples import LOSSES, OBJECTIVE, example, pipeline, run
from tests.pages import Page


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = write_report(
        example().model_copy(update={"pipelines": [pipeline()]}), OBJECTIVE, tmp_path_factory.mktemp("report")
    )
    names = {"report.html", "tables.md", "differences.png", "lambda.png", "curves-same-tokenizer.png"}
    assert {file.name for file in path.parent.iterdir()} == names
    return path


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_number_of_the_tables_in_order(seeds):
    results = example(seeds)
    page = Page(render_report(results, {}))
    expected = []
    for shown in results.pipelines:
        for line in table(shown):
            for cell in line.cells:
                expected.append(f"{cell.mean}± {cell.spread}{cell.note}" if cell.spread else cell.mean)
        for method, losses in LOSSES.items():
            for seed, loss in enumerate(losses[:seeds]):
                difference = "-" if method == "none" else f"{loss - LOSSES['none'][seed]:+.4f}"
                expected += [str(seed), "20", f"{loss:.4f}", difference, "12346", f"{30 + seed:.1f}", "700"]
    assert [text.replace(" (best)", "").replace("\n", "").strip() for text in page.texts["td"]] == expected
    best = ["74.4", "1.033", "0.533", "1.033", "1.533", "38.3"]
    if seeds == 3:
        assert page.texts["strong"] == [f"{figure} (best)" for figure in best] * 2


def test_nothing_is_loaded_from_outside(written):
    text = written.read_text(encoding="utf-8")
    page = Page(text)
    assert not any(mark in text for mark in ("http://", "https://", "url(", "@import"))
    assert {"script", "link", "iframe", "object", "embed", "base"}.isdisjoint(page.tags)
    loading = {"src", "srcset", "href", "data", "poster"}
    loads = [value for _, name, value in page.attributes if name in loading]
    assert len(loads) == len(set(loads)) == 6  # three figures, each for a light and a dark page
    for load in loads:
        assert load.startswith("data:image/png;base64,")
        assert base64.b64decode(load.split(",", 1)[1]).startswith(b"\x89PNG\r\n\x1a\n")
    policy = [value for tag, name, value in page.attributes if tag == "meta" and name == "content"]
    assert any(value.startswith("default-src 'none'") for value in policy)
    assert not any(name.startswith("on") for _, name, _ in page.attributes)


def test_every_image_has_a_description(written):
    page = Page(written.read_text(encoding="utf-8"))
    words = [value for tag, name, value in page.attributes if tag == "img" and name == "alt"]
    assert len(words) == 3 and all(len(text) > 20 for text in words)


def test_the_tables_are_markdown(written):
    lines = (written.parent / "tables.md").read_text(encoding="utf-8").splitlines()
    assert "| *teacher* | 100.0 | 0.700 | 0.200 | 0.700 | 1.200 | - | - | 40.0 | - | - |" in lines
    assert lines[lines.index("| :-- |" + " --: |" * 10) - 1].startswith("| method | gap closed (%) |")
    (shared,) = (line for line in lines if line.startswith("| `tide_shared` | **74.4** ± 10.0 |"))
    assert "| -0.0667 ± 0.0759 (n.s.) | - |" in shared


def test_model_output_and_names_stay_text():
    hostile = '</code></pre><script>alert(1)</script><img src="https://x.example/y">&lt;"\'\n\tif a < b & c:'
    texts = {"prompt": "def f(a):\n    # <b>\n", "completion": hostile, "reference": "    return a < 1 & 2\n"}
    runs = [run("none", 0, 1.0).model_copy(update={"completions": [Completion(**texts)]}), run("kl", 0, 1.1)]
    shown = Results(
        environment={"cpu": "<A> & B"},
        settings={"note": "<em>"},
        recipes={},
        pipelines=[pipeline("<u>odd", runs=runs)],
    )
    page = Page(render_report(shown, {}))
    assert {"script", "img", "u", "em"}.isdisjoint(page.tags)
    assert set(texts.values()) <= set(page.texts["code"])
    assert "<A> & B" in page.texts["dd"] and "<em>" in page.texts["dd"]


def test_completions_stand_beside_the_reference_and_the_teachers():
    page = Page(render_report(example(), {}))
    assert page.texts["h4"] == ["reference", "teacher", "none", "kl", "tide_shared"] * 2
    written = [f"    return x < 0 & '{method}'\n" for method in LOSSES]
    assert page.texts["code"][:6] == ["def f(x):\n", "    return x\n", "    return 2\n", *written]


def test_the_caveat_stands_under_the_headline():
    assert CAVEAT in Page(render_report(example(), {})).texts["header"][0]


def test_in_a_browser(written, tmp_path):
    hostile = "</code></pre><script>document.title = 'run'; throw 1</script><img src=x onerror=alert(1)>"
    written_by = Completion(prompt=hostile, completion=hostile, reference="x" * 400)
    runs = [run("none", 0, 1.0).model_copy(update={"completions": [written_by]})]
    shown = example().model_copy(update={"pipelines": [pipeline(), pipeline("_".join("ab" * 60), runs=runs)]})
    images = {
        name: ((written.parent / f"{name}.png").read_bytes(),) * 2 for name in ("differences", "lambda")
    }
    opened = open_page(render_report(shown, images), tmp_path)
    assert opened.console == []
    assert opened.scroll_width == opened.width <= 500
    assert opened.images == [True, True]
    assert opened.text.count(hostile) == 2


def test_settings_environment_and_totals_are_stated():
    page = Page(render_report(example(), {}))
    stated = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert stated["steps"] == "20" and stated["seeds"] == "0, 1, 2" and stated["cpu"] == "A & B <C>"
    assert stated["students trained"] == "18" and "tide_shared" in stated
    assert stated["training time, summed over runs"] == "9 min 18 s"  # 6 methods, seeds of 30, 31 and 32 s


def test_a_report_without_runs():
    empty = Results(environment={}, settings={}, recipes={}, pipelines=[pipeline(runs=[])])
    page = Page(render_report(empty, {}))
    start = [text.strip() for text in page.texts["td"]][10:]
    assert start == ["0.0", "2.000", "1.500", "2.000", "2.500", "-", "-", "40.0", "-", "-"]


def test_without_matplotlib_the_report_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for module in ("examples.quickstart.figures", "tide.inspection.figures"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    page = Page(write_report(example(), OBJECTIVE, tmp_path).read_text(encoding="utf-8"))
    assert any('pip install -e ".[plots]"' in text for text in page.texts["p"])
    assert "img" not in page.tags and len(page.texts["td"]) > 50
