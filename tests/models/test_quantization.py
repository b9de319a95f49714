"""Quantized teachers, where bitsandbytes is installed, and clear errors."""

from __future__ import annotations

import pytest
import torch

import tide.models.loading
from tests.models.test_golden import GOLDEN, logits_of
from tide.models import load_model


def test_a_student_is_not_quantized():
    with pytest.raises(ValueError, match=r"^load_model: quantization must .*'4bit', trainable=True"):
        load_model(str(GOLDEN / "sdar"), trainable=True, quantization="4bit")


def test_an_unknown_width_is_an_error():
    with pytest.raises(ValueError, match=r"^load_model: quantization must be one of 4bit, 8bit.*'2bit'"):
        load_model(str(GOLDEN / "sdar"), trainable=False, quantization="2bit")


def test_without_bitsandbytes_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(tide.models.loading, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^load_model: .* needs bitsandbytes.*tide-distill\[quantization\]"):
        load_model(str(GOLDEN / "sdar"), trainable=False, quantization="8bit")


@pytest.mark.parametrize(("quantization", "correlation"), [("4bit", 0.9), ("8bit", 0.998)])
@pytest.mark.parametrize("name", ["sdar", "llada2"])
def test_a_quantized_teacher_is_close_to_itself(name, quantization, correlation):
    pytest.importorskip("bitsandbytes")
    ids = torch.arange(20)[None]
    inputs = ids, ids, torch.ones(20, 20)
    exact = logits_of(load_model(str(GOLDEN / name), trainable=False), *inputs)
    model = load_model(
        str(GOLDEN / name), dtype="bfloat16", trainable=False, quantization=quantization, device="cpu"
    )
    logits = logits_of(model, *inputs).float()
    assert not torch.equal(logits, exact)
    assert torch.corrcoef(torch.stack([logits.flatten(), exact.flatten()]))[0, 1] > correlation
