"""A package with the modules, names and signatures of the official code, and bodies that name themselves."""

from __future__ import annotations

TAID = """
def compute_taid_loss(
    student_logits, teacher_logits, masked_mask, t, config: dict, global_step, max_steps, entropy_weights=None
):
    return "official taid"
"""
# As in the official package, which resolves the name when it is asked for.
LOSSES = """
def __getattr__(name):
    if name == "compute_taid_loss":
        from .taid import compute_taid_loss
        return compute_taid_loss
    raise AttributeError(name)
"""
TRAINER = """
class DistillBD3LMTrainer:
    @staticmethod
    def log1mexp(x):
        return "official log1mexp"

    @staticmethod
    def compute_alm_loss(
        student_logits, teacher_logits, student_input_ids, teacher_input_ids, alignment_matrix_student,
        alignment_matrix_teacher, chunk_mask, temperature: float = 2.0, chunk_weights=None,
        reverse: bool = False,
    ):
        return "official alm"

    def taid_step(self, **batch):
        from {package}.core.trainers.losses.taid import compute_taid_loss
        return compute_taid_loss(**batch)

    def alm_step(self, **batch):
        return self.compute_alm_loss(**batch)
"""
EARLY = "from {package}.core.trainers.losses.taid import compute_taid_loss as early_taid\n"
SUBCLASSES = """
from {package}.core.trainers.distill_bd3lm import DistillBD3LMTrainer

class Inherits(DistillBD3LMTrainer):
    pass

class Overrides(DistillBD3LMTrainer):
    @staticmethod
    def compute_alm_loss(*args, **kwargs):
        return "my own"
"""


def write(folder, package, **changed):
    """The package's files under folder; ``changed`` replaces the text of a file, None leaves it out."""
    files = {
        "__init__": "",
        "early": EARLY,
        "subclasses": SUBCLASSES,
        "core/__init__": "",
        "core/trainers/__init__": "",
        "core/trainers/distill_bd3lm": TRAINER,
        "core/trainers/losses/__init__": LOSSES,
        "core/trainers/losses/taid": TAID,
    }
    for path in files:
        name = path.rsplit("/", 1)[-1]
        if name in changed:
            files[path] = changed[name]
    for path, text in files.items():
        if text is not None:
            file = folder / package / f"{path}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.replace("{package}", package))
