"""The loss by which one network learns the outputs of another."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

__all__ = ["distillation_loss"]


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T² KL(softmax(v/T) ‖ softmax(z/T)), the mean over the batch, in nats.

    z are the student's logits, v the teacher's. Its gradient is that of the cross entropy with the teacher's soft
    targets, from which it differs by the targets' entropy: T (softmax(z/T) - softmax(v/T)) / n. The factor T² keeps
    it of one size whatever T is (Hinton, Vinyals, Dean, arXiv 1503.02531, section 2).

    Args:
        logits: The student's, (n, classes), n at least 1; computed with in float32.
        teacher_logits: Of the same shape. No gradient goes to them.
        temperature: T, above 0. From about 100 on float32 leaves few digits of the value, not of the gradient.

    Returns:
        A float32 scalar of at least 0, but for rounding.

    Raises:
        ValueError: If the shapes are not the same (n, classes), or ``temperature`` is not a finite number above 0.
    """
    if logits.dim() != 2 or logits.shape != teacher_logits.shape or logits.numel() == 0:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and teacher_logits {tuple(teacher_logits.shape)}; "
            "allowed is one shape (n, classes) for both, n and classes at least 1"
        )
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature={temperature!r}; allowed is a finite number above 0")
    student = F.log_softmax(logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach().float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
