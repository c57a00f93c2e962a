"""What a compiled network is made of, for people to read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Entry", "Plan"]


@dataclass(frozen=True)
class Entry:
    """A layer of a compiled network, or something else that takes its time.

    Attributes:
        name: The module's path in the network, and what is done there if that is not the module itself.
        choice: The kernel, or why it runs in PyTorch.
        milliseconds: For the whole batch; None of what runs in PyTorch.
        sparsity: The share of a layer's weights that are zero, in [0, 1]; None of all else.
        gain: How many times faster than a dense kernel of the runtime's own it was when it was chosen.
    """

    name: str
    choice: str
    milliseconds: float | None
    sparsity: float | None = None
    gain: float | None = None

    @property
    def share(self) -> float | None:
        """The gain as a share of what leaving out all multiplications with zero could give, 1 / (1 - sparsity)."""
        if self.gain is None or self.sparsity is None or self.sparsity == 1:
            return None
        return self.gain * (1 - self.sparsity)


@dataclass(frozen=True)
class Plan:
    """How a compiled network computes what it does; ``print`` shows it as a table.

    Attributes:
        entries: In the order in which they run.
        images: Of a batch.
        threads: That compute it.
        isa: The processor's vector instructions that the kernels use.
    """

    entries: tuple[Entry, ...]
    images: int
    threads: int
    isa: str

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @property
    def milliseconds(self) -> float:
        """Of all entries together."""
        return sum(entry.milliseconds or 0.0 for entry in self.entries)

    def __str__(self) -> str:
        head = ("layer", "sparsity", "choice", "ms", "gain", "of limit")
        rows = [head, *(_row(entry) for entry in self.entries)]
        rows.append(
            ("total", "", f"batch {self.images}, threads {self.threads}, {self.isa}", _ms(self.milliseconds), "", "")
        )
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        left = (0, 2)
        lines = [
            "  ".join(
                cell.ljust(width) if i in left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if value < 1 else f"{value:.3f}"


def _row(entry: Entry) -> tuple[str, ...]:
    sparsity = "" if entry.sparsity is None else f"{entry.sparsity:.1%}"
    gain = "" if entry.gain is None else f"{entry.gain:.1f}x"
    share = "" if entry.share is None else f"{entry.share:.0%}"
    return (entry.name, sparsity, entry.choice, _ms(entry.milliseconds), gain, share)
