"""``patch`` on a package laid out as the official one: all names or none, and back to the very objects."""

from __future__ import annotations

import importlib
import inspect
import pickle
import sys

import pytest
import torch

from tests.integrations import official_package
from tide.integrations import dllm as drop_in

PACKAGE = "fake_dllm"
TAID = f"{PACKAGE}.core.trainers.losses.taid"
TRAINER = f"{PACKAGE}.core.trainers.distill_bd3lm"
PATCHED = [
    f"{TAID}.compute_taid_loss",
    f"{TRAINER}.DistillBD3LMTrainer.compute_alm_loss",
    f"{TRAINER}.DistillBD3LMTrainer.log1mexp",
]


@pytest.fixture
def official(tmp_path, monkeypatch):
    """Writes the package, and forgets it afterwards."""

    def forget():
        drop_in.unpatch(PACKAGE)
        for name in [n for n in sys.modules if n.partition(".")[0] == PACKAGE]:
            del sys.modules[name]

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def make(**changed):
        official_package.write(tmp_path, PACKAGE, **changed)
        importlib.invalidate_caches()

    yield make
    forget()


def load(name):
    return importlib.import_module(f"{PACKAGE}.{name}")


def held():
    """What the package holds under the names that a patch replaces."""
    trainer = vars(importlib.import_module(TRAINER).DistillBD3LMTrainer)
    taid = importlib.import_module(TAID).compute_taid_loss
    return [taid, trainer["compute_alm_loss"], trainer["log1mexp"]]


def taid_batch():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 11, generator=generator)
    mask = torch.tensor([[True, False, True], [False, True, True]])
    return {
        "student_logits": student.requires_grad_(),
        "teacher_logits": teacher,
        "masked_mask": mask,
        "t": torch.tensor([0.2, 0.7]),
        "config": {"timestep_weight": "midrange"},
        "global_step": 3,
        "max_steps": 10,
    }


def alm_batch():
    generator = torch.Generator().manual_seed(1)
    matrix = torch.eye(4, dtype=torch.bool)[None, :, :3]
    return {
        "student_logits": torch.randn(1, 4, 7, generator=generator).requires_grad_(),
        "teacher_logits": torch.randn(1, 4, 9, generator=generator),
        "student_input_ids": torch.tensor([[1, 2, 3, 4]]),
        "teacher_input_ids": torch.tensor([[8, 7, 6, 5]]),
        "alignment_matrix_student": matrix,
        "alignment_matrix_teacher": matrix,
        "chunk_mask": torch.tensor([[True, False, True]]),
        "reverse": True,
    }


def test_the_trainer_runs_the_losses_of_tide(official):
    official()
    trainer = load("core.trainers.distill_bd3lm").DistillBD3LMTrainer()
    assert (trainer.taid_step(**taid_batch()), trainer.alm_step(**alm_batch())) == (
        "official taid",
        "official alm",
    )
    records = drop_in.patch(PACKAGE, verbose=False)
    assert [record.where for record in records] == PATCHED
    torch.testing.assert_close(
        trainer.taid_step(**taid_batch()), drop_in.compute_taid_loss(**taid_batch()), rtol=0, atol=0
    )
    torch.testing.assert_close(
        trainer.alm_step(**alm_batch()), drop_in.compute_alm_loss(**alm_batch()), rtol=0, atol=0
    )
    # An instance calls it without itself as the first argument: still a static method.
    assert float(trainer.log1mexp(torch.tensor(-1.0))) == pytest.approx(-0.4586751453870819)


def test_names_imported_elsewhere_are_replaced_too(official):
    official()
    early = load("early")
    original = early.early_taid
    records = drop_in.patch(PACKAGE, verbose=False)
    assert early.early_taid is drop_in.compute_taid_loss is load("core.trainers.losses").compute_taid_loss
    assert {record.where for record in records} == {*PATCHED, f"{PACKAGE}.early.early_taid"}
    drop_in.unpatch(PACKAGE)
    assert early.early_taid is original


def test_a_subclass_inherits_the_patch_and_keeps_what_it_overrides(official):
    official()
    subclasses = load("subclasses")
    drop_in.patch(PACKAGE, verbose=False)
    assert isinstance(subclasses.Inherits().alm_step(**alm_batch()), torch.Tensor)
    assert subclasses.Overrides().alm_step(**alm_batch()) == "my own"
    assert "compute_alm_loss" not in vars(subclasses.Inherits)


def test_unpatch_restores_the_very_objects(official):
    official()
    before = held()
    records = drop_in.patch(PACKAGE, verbose=False)
    assert [record.original for record in records] == before
    assert [record.replacement for record in records] == held()
    assert drop_in.unpatch(PACKAGE) == records
    assert all(now is then for now, then in zip(held(), before, strict=True))
    assert drop_in.unpatch(PACKAGE) == []


def test_unpatch_without_patch_changes_nothing(official):
    official()
    before = held()
    assert drop_in.unpatch(PACKAGE) == []
    assert all(now is then for now, then in zip(held(), before, strict=True))


def test_patching_twice_changes_nothing_the_second_time(official, capsys):
    official()
    before = held()
    records = drop_in.patch(PACKAGE)
    said = capsys.readouterr().err
    assert all(where in said for where in PATCHED)
    patched = held()
    assert drop_in.patch(PACKAGE) == records
    assert all(now is then for now, then in zip(held(), patched, strict=True))
    assert capsys.readouterr().err == ""
    drop_in.unpatch(PACKAGE)
    assert all(now is then for now, then in zip(held(), before, strict=True))


def test_other_options_replace_the_patch_and_not_the_originals(official):
    official()
    before = held()
    drop_in.patch(PACKAGE, verbose=False)
    records = drop_in.patch(PACKAGE, exact=False, verbose=False)
    assert [record.original for record in records] == before
    trainer = load("core.trainers.distill_bd3lm").DistillBD3LMTrainer()
    loss = trainer.taid_step(**taid_batch())
    assert torch.equal(loss, drop_in.compute_taid_loss(**taid_batch(), exact=False))
    assert not torch.equal(loss, drop_in.compute_taid_loss(**taid_batch()))
    drop_in.unpatch(PACKAGE)
    assert all(now is then for now, then in zip(held(), before, strict=True))


def test_the_option_for_empty_chunks_reaches_the_trainer(official):
    official()
    trainer = load("core.trainers.distill_bd3lm").DistillBD3LMTrainer()
    batch = alm_batch()
    batch["alignment_matrix_teacher"] = batch["alignment_matrix_teacher"].clone()
    batch["alignment_matrix_teacher"][0, 2] = False
    drop_in.patch(PACKAGE, verbose=False)
    with pytest.raises(ValueError, match="chunk 2 of sequence 0 has no teacher token"):
        trainer.alm_step(**batch)
    drop_in.patch(PACKAGE, empty_chunks="drop", verbose=False)
    assert torch.isfinite(trainer.alm_step(**batch))


def test_reloaded_module_is_patched_again(official):
    official()
    drop_in.patch(PACKAGE, verbose=False)
    taid = importlib.reload(importlib.import_module(TAID))
    original = taid.compute_taid_loss
    assert original is not drop_in.compute_taid_loss
    drop_in.patch(PACKAGE, verbose=False)
    assert taid.compute_taid_loss is drop_in.compute_taid_loss
    drop_in.unpatch(PACKAGE)
    assert taid.compute_taid_loss is original


def test_unpatch_leaves_later_replacements(official):
    official()
    drop_in.patch(PACKAGE, verbose=False)
    importlib.import_module(TAID).compute_taid_loss = theirs = object()
    assert [record.where for record in drop_in.unpatch(PACKAGE)] == PATCHED[1:]
    assert importlib.import_module(TAID).compute_taid_loss is theirs


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "taid",
            "max_steps, ",
            "total_steps, ",
            r"compute_taid_loss has another.*expected .*found .*total_steps",
        ),
        ("taid", "entropy_weights=None", "entropy_weights=1", "compute_taid_loss has another signature"),
        ("taid", "masked_mask, t,", "masked_mask, *, t,", "compute_taid_loss has another signature"),
        ("taid", "def compute_taid_loss", "def taid", "compute_taid_loss does not exist"),
        (
            "taid",
            "def compute_taid_loss",
            "class compute_taid_loss:\n  def f",
            "must be a function; found type",
        ),
        ("distill_bd3lm", "float = 2.0", "float = 1.0", "compute_alm_loss has another signature"),
        ("distill_bd3lm", "reverse: bool = False,", "", "compute_alm_loss has another signature"),
        ("distill_bd3lm", "log1mexp(x)", "log1mexp(logits)", "log1mexp has another signature"),
        ("distill_bd3lm", "@staticmethod\n    def log1mexp(x", "def log1mexp(x", "must be a static method"),
        ("distill_bd3lm", "def compute_alm_loss", "def alm", "compute_alm_loss does not exist"),
        ("distill_bd3lm", "class DistillBD3LMTrainer", "class Trainer", "no class DistillBD3LMTrainer"),
    ],
)
def test_another_version_is_refused_and_unchanged(official, file, old, new, message):
    text = {"taid": official_package.TAID, "distill_bd3lm": official_package.TRAINER}[file]
    assert old in text
    official(**{file: text.replace(old, new)})
    modules = [importlib.import_module(name) for name in (TAID, TRAINER)]
    classes = [value for value in vars(modules[1]).values() if inspect.isclass(value)]
    before = [dict(vars(holder)) for holder in (*modules, *classes)]
    with pytest.raises(ValueError, match=f"(?s){message}") as refused:
        drop_in.patch(PACKAGE, verbose=False)
    assert "othing was changed" in str(refused.value)
    assert [dict(vars(holder)) for holder in (*modules, *classes)] == before
    assert drop_in.unpatch(PACKAGE) == []


def test_the_message_shows_both_signatures(official):
    official(taid=official_package.TAID.replace("max_steps, ", ""))
    with pytest.raises(ValueError) as refused:
        drop_in.patch(PACKAGE, verbose=False)
    shown = str(refused.value).splitlines()
    parameters = "student_logits, teacher_logits, masked_mask, t, config, global_step, {}entropy_weights=None"
    assert shown[1].split(None, 1) == ["expected", f"({parameters.format('max_steps, ')})"]
    assert shown[2].split(None, 1) == ["found", f"({parameters.format('')})"]


def test_missing_package_is_an_import_error(official):
    with pytest.raises(ImportError, match=r"no package 'no_such_dllm'.*Install the official code"):
        drop_in.patch("no_such_dllm")


def test_library_without_distillation_is_an_import_error(official):
    official(taid=None)
    with pytest.raises(ImportError, match=f"'{PACKAGE}' has no module '{TAID}'"):
        drop_in.patch(PACKAGE)


def test_missing_dependency_keeps_its_own_message(official):
    official(taid="import no_such_dependency\n")
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_dependency'"):
        drop_in.patch(PACKAGE)


def test_patched_functions_can_be_pickled(official):
    assert pickle.loads(pickle.dumps(drop_in.compute_alm_loss)) is drop_in.compute_alm_loss
