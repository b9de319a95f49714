"""Tables, targets and plots come from the JSON alone."""

from __future__ import annotations

import json

import pytest

from benchmarks import report
from benchmarks._cases import BOTH, HEADLINE_VOCAB, LAYOUTS
from benchmarks._targets import VARIANTS, judge

OPS = {"tidal": "interpolated_kl", "reverse_kl": "reverse_kl", "token_logprob": "token_logprob"}
ENVIRONMENT = {"device": "Some GPU", "device_type": "cuda", "torch": "2.11.0", "commit": "abc1234"}


def row(variant, contestant, milliseconds, rows=4096, layout=(HEADLINE_VOCAB, HEADLINE_VOCAB), **changes):
    vocab, width = layout
    gradient = rows * width * 2 / 2**20
    least = rows * (vocab * 8 + width * 2)
    figures = {
        "op": OPS[variant],
        "variant": variant,
        "rows": rows,
        "vocab": vocab,
        "width": width,
        "dtype": "bfloat16",
        "mode": BOTH,
        "stage": int((rows, layout) != (4096, (HEADLINE_VOCAB, HEADLINE_VOCAB))),
        "contestant": contestant,
        "ours": contestant in ("triton", "torch", "reference"),
        "status": "measured",
        "reason": None,
        "rounds": 20,
        "median_ms": milliseconds,
        "p20_ms": 0.9 * milliseconds,
        "p80_ms": 1.1 * milliseconds,
        "least_bytes": least,
        "gb_s": least / milliseconds / 1e6,
        "copy_gb_s": 4000.0,
        "copy_percent": least / milliseconds / 1e6 / 40.0,
        "peak_mib": gradient * (1.001 if contestant == "triton" else 4),
        "gradient_mib": gradient,
        "loss_error": 1e-7,
        "gradient_error": 1.7e-3,
        "gradient_floor": 1.66e-3,
        "near_loss_error": 2e-6,
        "near_gradient_error": 1.7e-3,
        "near_gradient_floor": 1.66e-3,
    }
    return figures | changes


def headline(**changes):
    """Every target met: 1.6 ms for 6.2 GB is 97 % of 4000 GB/s."""
    rows = []
    for variant in VARIANTS:
        rows.append(row(variant, "triton", 1.6, **changes))
        rows += [row(variant, "eager", 20.0), row(variant, "compile_official", 4.0)]
        rows.append(row(variant, "triton", 6.4, rows=16384))
    return rows


def outcomes(rows, variant="tidal"):
    return [v.outcome.split()[0] for v in judge(rows) if v.variant == variant]


def test_every_target_is_met_by_figures_that_meet_it():
    assert outcomes(headline()) == ["met"] * 7


def test_without_rows_every_target_is_unmeasured():
    assert {v.outcome for v in judge([])} == {"unmeasured"}
    assert len(judge([])) == 7 * len(VARIANTS)


@pytest.mark.parametrize(
    ("target", "changes"),
    [
        (0, {"copy_percent": 84.9}),
        (1, {"median_ms": 4.1}),  # 20 ms / 4.1 ms is under 5
        (2, {"median_ms": 2.7}),  # 4 ms / 2.7 ms is under 1.5
        (3, {"peak_mib": 2 * 4096 * HEADLINE_VOCAB * 2 / 2**20}),
        (4, {"near_loss_error": 1.1e-5}),
        (4, {"near_loss_error": float("nan")}),
        (5, {"near_gradient_error": 2e-3}),
    ],
)
def test_a_figure_that_misses_its_target_says_so(target, changes):
    assert outcomes(headline(**changes))[target] == "missed"


def test_a_red_kernel_leaves_its_targets_unmeasured_with_the_reason():
    rows = [row("tidal", "triton", 1.0, status="red", reason="gradient error 3e-02")]
    verdicts = [v for v in judge(rows) if v.variant == "tidal"]
    assert "unmeasured (red: gradient error 3e-02)" in {v.outcome for v in verdicts}
    assert not any(v.outcome.startswith("met") for v in verdicts)


def test_a_missing_contestant_makes_its_ratio_unmeasured():
    rows = [r for r in headline() if r["contestant"] != "eager"]
    assert outcomes(rows)[:3] == ["met", "unmeasured", "met"]


@pytest.fixture
def folder(tmp_path):
    """Two operations of one device, as a run leaves them."""
    device = tmp_path / "some-gpu"
    device.mkdir()
    for variant in ("tidal", "reverse_kl"):
        rows = [r for r in headline() if r["variant"] == variant]
        rows += [row(variant, "torch", 9.0, rows=n) for n in (512, 4096, 16384)]
        rows += [row(variant, "torch", 9.0, layout=layout) for layout in LAYOUTS]
        rows += [row(variant, "triton", 1.6, layout=layout) for layout in LAYOUTS]
        rows.append(row(variant, "liger_jsd", 1.0, status="absent", reason="liger-kernel is not installed"))
        content = {"environment": ENVIRONMENT, "rows": rows}
        (device / f"{OPS[variant]}.json").write_text(json.dumps(content))
    # Another command's file beside them holds no rows, and is left alone.
    (device / "tests.json").write_text(json.dumps({"status": 0}))
    return device


def test_the_page_holds_figures_reasons_targets_and_plots(folder, capsys):
    report.main([str(folder.parent)])
    page = (folder / "README.md").read_text()
    assert "commit abc1234" in page
    assert "| **triton** | 1.6 | 1.44 | 1.76 |" in page
    assert "absent: liger_jsd (liger-kernel is not installed)." in page
    assert "| at least 5x faster than eager | met (12.5x) | met (12.5x) | unmeasured |" in page
    assert "151,646 of 151,936" in page
    for name in ("time", "memory", "bandwidth"):
        assert f"![{name}]({name}.png)" in page
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "12.5x" in capsys.readouterr().out


def test_without_matplotlib_the_page_has_no_plots(folder, monkeypatch, capsys):
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    report.main([str(folder)])
    assert "no plots: matplotlib is not installed" in capsys.readouterr().out
    assert "![" not in (folder / "README.md").read_text()


def test_a_folder_without_rows_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="make bench"):
        report.render(tmp_path)
