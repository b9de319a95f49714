"""KL of the student from the teacher, over logits."""

from tide_kernels.reverse_kl.function import reverse_kl

__all__ = ["reverse_kl"]
