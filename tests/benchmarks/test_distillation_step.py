"""The benchmark of the whole step at tiny sizes: agreement of its sides, tokens, and the case of a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import _steps, bench_all, distillation_step, layout_tokens
from benchmarks._steps import MASKING, MODELS, OBJECTIVE, SIDES
from benchmarks._timing import Rounds
from benchmarks.distillation_step import markdown, measure, measure_all
from benchmarks.layout_tokens import full_examples, tokens_per_example
from tide.config import MaskingConfig, ObjectiveConfig
from tide.masking import Noiser

CPU = torch.device("cpu")
ONE_ROUND = Rounds(0.0, 1, 1, 0)
TINY = MODELS["tiny"]


def test_the_settings_are_the_defaults_of_a_recipe():
    assert vars(MASKING) == MaskingConfig().model_dump()
    assert vars(OBJECTIVE) == ObjectiveConfig().model_dump()


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("t", [0.1, 0.5, 1.0])
def test_the_sides_agree(t, bf16):
    result = measure(TINY._replace(bf16=bf16), 2, t, CPU, ONE_ROUND)
    assert all(result["time_s"][side]["median"] > 0 for side in SIDES)
    assert result["loss_difference"] < (1e-2 if bf16 else 1e-6)


FAULTS = {
    "full attention": (_steps, "block_diffusion_mask", lambda length, device: None),
    "a longer block": (_steps, "BLOCK_SIZE", 64),
    "a term that is left out": (_steps, "eager_tidal", lambda *arguments: 0.0),
    "one view for all rows": (
        _steps,
        "_merged_teacher_logits",
        lambda teacher, noised: _steps._doubled_logits(
            teacher, noised.teacher.views[:, 0], noised.teacher.token_ids
        ),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_time_is_reported_where_the_sides_disagree(fault, monkeypatch):
    contract = _steps.Contract(mask_id=TINY.vocab - 1, block_size=32)
    monkeypatch.setattr(_steps, "Contract", lambda **values: contract)
    monkeypatch.setattr(*FAULTS[fault])
    with pytest.raises(RuntimeError, match="disagree"):
        measure(TINY, 2, 0.5, CPU, ONE_ROUND)


def test_tokens_per_example():
    # Every answer token is masked: x_0 but for its last block, and the answer once for each view.
    work = _steps.build(TINY, 2, 1.0, CPU)
    assert distillation_step.tokens_per_example(work, TINY) == {
        "official": {"student": 256, "teacher": 512},
        "tide": {"student": 96 + 64, "teacher": 96 + 2 * 64},
    }


def test_the_table():
    row = {
        "batch_size": 2,
        "t": 0.5,
        "attention": "sdpa",
        "rows": 1234,
        "time_s": {"official": {"median": 5.0}, "tide": {"median": 2.0}},
        "processor_s": {"official": {"median": 6.0}, "tide": {"median": 2.0}},
        "tokens": {
            "official": {"student": 1024, "teacher": 2048},
            "tide": {"student": 736, "teacher": 992},
        },
        "peak": {
            "official": {"all": 4 << 30, "step": 2 << 30},
            "tide": {"all": 1 << 30, "step": 1 << 29},
        },
    }
    cells = "2 | 0.5 | sdpa | 1,234 | 1,024 / 736 | 2,048 / 992 | 5 | 2 | 2.5x | 3.0x"
    cells += " | 4.00 | 1.00 | 25% | 2.00 | 0.50 | 25%"
    assert markdown([row]).splitlines()[-1] == f"| {cells} |"


def test_peaks_are_those_of_a_worker_per_side(monkeypatch, capsys):
    def here(module, task, environment):
        assert module == "benchmarks.distillation_step"
        distillation_step.main(["--worker", json.dumps(task)])
        return json.loads(capsys.readouterr().out)

    monkeypatch.setattr(distillation_step, "in_process", here)
    (row,) = measure_all("tiny", [2], [0.5], CPU, ONE_ROUND)["steps"]
    assert all(row["peak"][side]["all"] > row["peak"][side]["step"] >= 0 for side in SIDES)


def case_on(device, left, folder):
    """Run the case of `make gpu`."""
    session = SimpleNamespace(
        device=torch.device(device), left=lambda: left, store=SimpleNamespace(folder=folder)
    )
    bench_all.bench_distillation_step("sdpa", session)


@pytest.mark.parametrize(("device", "reason"), [("cpu", "GPU"), ("cuda", "budget")])
def test_the_case_is_skipped(device, reason, tmp_path):
    with pytest.raises(pytest.skip.Exception, match=reason):
        case_on(device, 0.0, tmp_path)


def test_the_case_writes_what_it_measures(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(MODELS, "real", TINY._replace(bf16=True))

    def on_cpu(models, batch_size, t, device, rounds, attention):
        peak = {side: {"all": 2, "step": 1} for side in SIDES}
        return measure(models, batch_size, t, CPU, ONE_ROUND) | {"peak": peak}

    monkeypatch.setattr(distillation_step, "measure", on_cpu)
    monkeypatch.setattr(distillation_step, "describe", lambda device: {"device_type": device.type})
    case_on("cuda", 100.0, tmp_path)
    written = json.loads((tmp_path / "distillation_step-sdpa.json").read_text())
    assert capsys.readouterr().out.strip() == markdown(written["steps"])
    assert written["environment"] == {"device_type": "cuda"}


@pytest.mark.slow
def test_it_imports_with_what_make_gpu_asks_for():
    absent = ("jaxtyping", "pydantic", "pyarrow", "rich", "liger_kernel", "matplotlib")
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import benchmarks.distillation_step"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_tokens_of_layouts_with_prompts_and_padding(monkeypatch):
    def noiser(*values):
        return lambda batch, generator: Noiser(*values)(batch, generator, torch.ones(2))

    monkeypatch.setattr(layout_tokens, "Noiser", noiser)
    examples = full_examples(128, 0.5, 1) + full_examples(64, 0.5, 1)
    # 96 tokens of x_0 and 64 of each view of the first text, 32 and 32 of the second, in equally wide rows.
    assert tokens_per_example(examples, block_size=32, batch_size=2, num_batches=1) == {
        "student": ((160 + 64) / 2, 160, 2 * 128),
        "teacher": ((224 + 96) / 2, 224, 4 * 128),
    }
