"""KL of the student from the teacher, from logits."""

from tide_kernels.reverse_kl.function import reverse_kl

__all__ = ["reverse_kl"]
