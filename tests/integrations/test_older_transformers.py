"""Beside an older transformers the losses and drop-ins work, and the command says what it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tide.cli import main as command


@pytest.mark.parametrize("arguments", [["distill", "a.yaml"], ["sample", "a", "b"], ["convert", "a", "b"]])
def test_commands_say_which_transformers_they_need(monkeypatch, capsys, arguments):
    monkeypatch.setattr(command, "version", lambda _: "4.57.1")
    assert command.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"tide {arguments[0]}: transformers 4.57.1 is too old")
    assert 'pip install "transformers>=5.17"' in lines[0]


def test_a_recipe_prints_beside_any_transformers(monkeypatch, capsys):
    monkeypatch.setattr(command, "version", lambda _: "4.57.1")
    assert command.main(["recipe", "method"]) == 0 and "method" in capsys.readouterr().out


def test_losses_and_drop_ins_import_no_transformers():
    code = "import sys, tide.losses, tide.integrations.dllm; print('transformers' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
