"""Tables, targets and plots from the JSON of a run."""

from __future__ import annotations

import json

import pytest

from benchmarks import report
from benchmarks._cases import BOTH, DIVERGENCE_HEADS, HEADLINE_VOCAB, LOGITS, TOKEN_HEADS
from benchmarks._targets import HIDDEN_IN, LOGITS_IN, verdict

# Ops of the variants whose name differs.
OPS = {
    "tidal": "interpolated_kl",
    "forward_kl": "interpolated_kl",
    "linear_tidal": "linear_interpolated_kl",
    "linear_forward_kl": "linear_interpolated_kl",
}
ENVIRONMENT = {"device": "Some GPU", "device_type": "cuda", "torch": "2.11.0", "commit": "abc1234"}


def row(variant, contestant, milliseconds, rows=4096, layout=(HEADLINE_VOCAB, HEADLINE_VOCAB), **changes):
    vocab, width = layout
    gradient = rows * width * 2 / 2**20
    least = rows * (vocab * 8 + width * 2)
    figures = {
        "op": OPS.get(variant, variant),
        "variant": variant,
        "rows": rows,
        "vocab": vocab,
        "width": width,
        "dtype": "bfloat16",
        "mode": BOTH,
        "stage": int((rows, layout) != (4096, (HEADLINE_VOCAB, HEADLINE_VOCAB))),
        "contestant": contestant,
        "ours": contestant in ("triton", "torch"),
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


def headline(variant="tidal", **changes):
    """Rows that meet every target: 1.6 ms for 6.2 GB is 97 % of 4000 GB/s."""
    return [
        row(variant, "triton", 1.6, **changes),
        row(variant, "eager", 20.0),
        row(variant, "compile", 4.0),
    ]


def hidden_row(variant, contestant, milliseconds, heads, **changes):
    """A row of an operation over hidden states, with products of 16 ms."""
    vocab, _, student, teacher = heads
    gradient = (4096 + vocab) * student * 2 / 2**20
    figures = {
        "student_hidden": student,
        "teacher_hidden": teacher,
        "ours": contestant in ("triton", "torch"),
        "gradient_mib": gradient,
        "peak_mib": gradient + 1400,  # 1.47 GB
        "least_flops": 9e12,
        "tflop_s": 9e3 / milliseconds,
        "gemm_ms": 16.0,
        "gemm_percent": 1600 / milliseconds,
    }
    return row(variant, contestant, milliseconds, layout=(vocab, vocab), **figures | {"stage": 0} | changes)


def hidden_headline(variant="linear_tidal", heads=DIVERGENCE_HEADS[0], **changes):
    """Rows that meet every target: 20 ms, with products of 16, compiled 30 and a peer of 27."""
    others = {"gemms": 16.0, "eager": 65.0, "compile": 30.0, "liger_fused_jsd": 27.0, "torch": 22.0}
    rows = [hidden_row(variant, name, ms, heads) for name, ms in others.items()]
    return [*rows, hidden_row(variant, "triton", 20.0, heads, **changes)]


def outcomes(rows, targets=LOGITS_IN):
    return [verdict(target, rows) for target in targets]


def words(rows, targets=LOGITS_IN):
    return [outcome.split()[0] for outcome in outcomes(rows, targets)]


def test_figures_that_meet_a_target_say_met():
    assert words(headline()) == ["met"] * 6
    assert words(hidden_headline(), HIDDEN_IN) == ["met"] * 5
    assert outcomes(hidden_headline(), HIDDEN_IN)[3] == "met (1.4x liger_fused_jsd)"


def test_without_rows_every_target_is_unmeasured():
    assert set(outcomes([], LOGITS_IN + HIDDEN_IN)) == {"unmeasured"}


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
def test_a_figure_that_misses_its_target_says_missed(target, changes):
    assert words(headline(**changes))[target] == "missed"


def test_a_red_kernel_leaves_its_targets_unmeasured_with_the_reason():
    rows = [row("tidal", "triton", 1.0, status="red", reason="gradient error 3e-02")]
    assert set(outcomes(rows)) == {"unmeasured (red: gradient error 3e-02)"}


def test_a_missing_contestant_makes_its_ratio_unmeasured():
    assert words([r for r in headline() if r["contestant"] != "eager"])[:3] == ["met", "unmeasured", "met"]


@pytest.mark.parametrize(
    ("target", "changes"),
    [
        (0, {"median_ms": 20.9}),  # over 1.3 times 16 ms
        (1, {"peak_mib": 304 + 1440}),  # 1.5 GB are 1430 MiB
        (2, {"median_ms": 22.0}),  # 65 ms / 22 ms is under 3
        (3, {"median_ms": 20.8}),  # 27 ms / 20.8 ms is under 1.3
        (4, {"gradient_error": 3.1e-3}),
        (4, {"gradient_error": float("nan")}),
    ],
)
def test_a_figure_over_hidden_states_that_misses_its_target_says_missed(target, changes):
    assert words(hidden_headline(**changes), HIDDEN_IN)[target] == "missed"


def test_every_headline_has_its_own_verdict():
    rows = hidden_headline("linear_token_logprob", TOKEN_HEADS[0])
    table = report.targets_table(rows).split("\n\n")[-1].splitlines()
    assert [cell.strip() for cell in table[0].split("|")[-3:-1]] == [
        "linear_token_logprob, V 151,936, d 1,024",
        "linear_token_logprob, V 157,184, d 2,048",
    ]
    assert table[2].endswith("| met (1.25x) | unmeasured |")


@pytest.fixture
def folder(tmp_path):
    """Results of a run on one device."""
    device = tmp_path / "some-gpu"
    device.mkdir()
    for variant in ("tidal", "reverse_kl"):
        rows = headline(variant) + [row(variant, "torch", 9.0, rows=n) for n in (512, 4096, 16384)]
        rows += [row(variant, "torch", 9.0, layout=layout[:2]) for layout in LOGITS]
        rows += [row(variant, "triton", 1.6, layout=layout[:2]) for layout in LOGITS]
        rows.append(row(variant, "liger_jsd", 1.0, status="absent", reason="liger-kernel is not installed"))
        content = {"environment": ENVIRONMENT, "rows": rows}
        (device / f"{OPS.get(variant, variant)}.json").write_text(json.dumps(content))
    content = {"environment": ENVIRONMENT, "rows": hidden_headline()}
    (device / "linear_interpolated_kl.json").write_text(json.dumps(content))
    # A file without rows, of another command, is ignored.
    (device / "tests.json").write_text(json.dumps({"status": 0}))
    return device


def test_the_page_holds_figures_reasons_targets_and_plots(folder, capsys):
    report.main([str(folder.parent)])
    page = (folder / "README.md").read_text()
    assert "commit abc1234" in page
    assert "| **triton** | 1.6 | 1.44 | 1.76 |" in page
    assert "absent: liger_jsd (liger-kernel is not installed)." in page
    assert "| at least 5x faster than eager | met (12.5x) | unmeasured | met (12.5x) | unmeasured |" in page
    assert "151,646 of 151,936" in page
    assert "N 4,096, V 151,936, d 1,024 / 4,096, bfloat16" in page and "| % of GEMMs |" in page
    assert "| **triton** | 20 | 18 | 22 | 450 | 80.0 | 1,705 |" in page
    assert "| at most 1.3x the products it cannot avoid | met (1.25x) | unmeasured |" in page
    for name in ("time", "memory", "bandwidth", "linear_time", "linear_memory", "linear_gemms"):
        assert f"![{name}]({name}.png)" in page
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "12.5x" in capsys.readouterr().out


def test_without_matplotlib_the_page_has_no_plots(folder, monkeypatch, capsys):
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    report.main([str(folder)])
    assert "no plots: matplotlib is not installed" in capsys.readouterr().out
    assert "![" not in (folder / "README.md").read_text()


def test_a_folder_without_rows_names_the_command_to_run(tmp_path):
    with pytest.raises(ValueError, match="make bench"):
        report.render(tmp_path)
