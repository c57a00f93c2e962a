"""What a finished run gave, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparsecycle.lab.store import BrokenFile, RunFolder

__all__ = ["Result"]


@dataclass(frozen=True)
class Result:
    """What a finished run gave."""

    accuracy: float
    """Share of the test images classified correctly after the final epoch."""

    loss: float
    """Mean cross entropy on the test images after the final epoch."""

    validation_accuracy: float | None
    """Share of the validation images likewise; None where none were held out."""

    sparsity: float
    """Requested share of the prunable weights that are zero; 0 for a dense run."""

    achieved: float
    """Counted share of the prunable weights that are zero."""

    epochs: int
    """Epochs trained."""

    seconds: float
    """Time in training over all starts of the run, without evaluating and compiling; that of what was trained before it
    (a ticket's search, a teacher) included."""

    images_per_second: float
    """Images trained a second."""

    precision: str
    """fp32 or bf16."""

    device: str
    """torch's name of the device."""

    path: Path
    """The run's folder."""

    trainings: int = 1
    """Networks trained for it, this one included."""

    search_epochs: float = 0.0
    """Epochs trained in search of its ticket, before the network that is scored."""

    search_multiply_adds: int = 0
    """Of the search: 3 x those of the kept weights' forward pass x images, summed over its trainings."""

    @classmethod
    def stored(cls, folder: RunFolder) -> Result | None:
        """The stored result; None where the run is not finished."""
        return cls.read(folder) if folder.finished else None

    @classmethod
    def read(cls, folder: RunFolder) -> Result:
        """The stored result of a finished run.

        Raises:
            BrokenFile: ``result.json`` is not one.
        """
        try:
            return cls(**folder.read_json("result.json"), path=folder.path)
        except TypeError as error:
            raise BrokenFile(f"{folder.path / 'result.json'} is not a result ({error})") from error
