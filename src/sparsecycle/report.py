"""What was asked, and what came out, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sparsecycle.modes import evaluating

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LayerReport", "Report", "multiply_adds", "report_on", "table"]


@dataclass(frozen=True)
class LayerReport:
    """One pruned weight tensor.

    Args:
        name: The parameter's name in the model.
        shape: Its shape.
        kept: How many of its weights are not pruned.
        multiply_adds: Multiply-adds of its layer, dense, in the forward pass that was counted; None if none was.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    multiply_adds: int | None = None

    @property
    def weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def sparsity(self) -> float:
        """Share of the weights that are pruned."""
        return 1 - self.kept / self.weights


@dataclass(frozen=True)
class Report:
    """Requested and achieved; ``print(report)`` is a table, :meth:`plot` a picture, :meth:`to_dict` plain data.

    Args:
        layers: The pruned weights, in the model's order.
        requested: Share of the prunable weights to be zero at the end.
        steps: Steps made, and steps planned.
        settings: The words that were chosen.
        left_out: The other matrices of the model, and why each is not pruned.
        notes: What went wrong and how to mend it.
        all_multiply_adds: Multiply-adds of the whole dense model in the forward pass that was counted.
    """

    layers: tuple[LayerReport, ...]
    requested: float
    steps: tuple[int, int]
    settings: dict[str, Any]
    left_out: dict[str, str]
    notes: tuple[str, ...] = ()
    all_multiply_adds: int | None = None

    @property
    def weights(self) -> int:
        """Number of prunable weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def kept(self) -> int:
        """Number of weights that are not pruned."""
        return sum(layer.kept for layer in self.layers)

    @property
    def achieved(self) -> float:
        """Share of the prunable weights that are pruned, counted."""
        return 1 - self.kept / self.weights

    @property
    def kept_multiply_adds(self) -> float | None:
        """Share of the dense model's multiply-adds that are left, those of layers that are not pruned included."""
        if not self.all_multiply_adds:
            return None
        saved = sum(layer.sparsity * (layer.multiply_adds or 0) for layer in self.layers)
        return 1 - saved / self.all_multiply_adds

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the fields, and the totals."""
        return {
            **asdict(self),
            "layers": [{**asdict(y), "weights": y.weights, "sparsity": y.sparsity} for y in self.layers],
            "weights": self.weights,
            "kept": self.kept,
            "achieved": self.achieved,
            "kept_multiply_adds": self.kept_multiply_adds,
        }

    def __str__(self) -> str:
        counted = bool(self.all_multiply_adds)
        head = ["layer", "shape", "weights", "kept", "sparsity", *(["multiply-adds"] if counted else [])]
        rows = [
            [y.name, "×".join(map(str, y.shape)), f"{y.weights:,}", f"{y.kept:,}", f"{y.sparsity:.2%}"]
            + ([f"{(y.multiply_adds or 0) / (self.all_multiply_adds or 1):.1%}"] if counted else [])
            for y in self.layers
        ]
        left = self.kept_multiply_adds
        total = ["all", "", f"{self.weights:,}", f"{self.kept:,}", f"{self.achieved:.2%}"]
        total += [] if left is None else [f"{left:.1%} left"]
        lines = table(head, [*rows, total])
        lines.append(
            f"requested {self.requested:.4%}, achieved {self.achieved:.4%} at step {self.steps[0]} of {self.steps[1]}"
        )
        lines.append(", ".join(f"{key} {value}" for key, value in self.settings.items() if key != "total_steps"))
        if self.left_out:
            lines.append("not pruned: " + ", ".join(f"{name} ({why})" for name, why in self.left_out.items()))
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Draw each layer's sparsity, and how many of its weights are kept; needs ``sparsecycle[plot]``."""
        from sparsecycle._matplotlib import pyplot

        figure: Figure
        rows = range(len(self.layers))
        figure, ax = pyplot().subplots(figsize=(8, 1.2 + 0.28 * len(self.layers)), layout="constrained")
        ax.barh(rows, [100.0] * len(rows), color="#e5e5e5", height=0.7)
        ax.barh(rows, [100 * y.sparsity for y in self.layers], color="#0072b2", height=0.7)
        for row, y in zip(rows, self.layers, strict=True):
            ax.annotate(
                f"{y.kept:,} of {y.weights:,}", (100, row), (4, 0), textcoords="offset points", va="center", size=8
            )
        ax.axvline(100 * self.achieved, color="#333333", linewidth=1, linestyle=(0, (4, 3)))
        ax.set_yticks(rows, [y.name for y in self.layers], size=8)
        title = f"{self.achieved:.2%} sparse: {self.kept:,} of {self.weights:,} weights kept"
        ax.set(xlim=(0, 100), xlabel="sparsity, % (dashed: all layers together)", title=title)
        ax.invert_yaxis()
        ax.spines[["top", "right"]].set_visible(False)
        return figure


def report_on(
    model: nn.Module,
    shapes: Mapping[str, tuple[int, ...]],
    kept: Mapping[str, int],
    *,
    requested: float,
    steps: tuple[int, int],
    settings: Mapping[str, Any],
    left_out: Mapping[str, str],
    notes: Sequence[str],
    example_inputs: Any = None,
) -> Report:
    """Put the report together; ``example_inputs``, if given, is what the model is called with to count its work."""
    by_name: dict[str, int] = {}
    all_multiply_adds = None
    if example_inputs is not None:
        by_name, all_multiply_adds = multiply_adds(model, example_inputs, list(shapes))
    layers = tuple(LayerReport(name, shape, kept[name], by_name.get(name)) for name, shape in shapes.items())
    return Report(layers, requested, steps, dict(settings), dict(left_out), tuple(notes), all_multiply_adds)


_OF_ACTIVATIONS = (torch.ops.aten.bmm, torch.ops.aten.baddbmm)


@contextmanager
def _counted_operators(model: nn.Module) -> Iterator[None]:
    """Keeps attention and recurrent layers off their fused kernels, whose work the counter does not see."""
    attention, mkldnn, cudnn = torch.backends.mha, torch.backends.mkldnn, torch.backends.cudnn
    before = attention.get_fastpath_enabled(), mkldnn.enabled, cudnn.enabled
    try:
        attention.set_fastpath_enabled(False)
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            setattr(mkldnn, "enabled", False)  # noqa: B010 - a property that type checkers do not see as one
            setattr(cudnn, "enabled", False)  # noqa: B010
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        attention.set_fastpath_enabled(before[0])
        setattr(mkldnn, "enabled", before[1])  # noqa: B010
        setattr(cudnn, "enabled", before[2])  # noqa: B010


@torch.no_grad()
def multiply_adds(model: nn.Module, example_inputs: Any, names: Sequence[str]) -> tuple[dict[str, int], int]:
    """Multiply-adds of the layers of these weights, and of the whole model, in one forward pass.

    Counted by ``torch.utils.flop_counter`` in evaluation mode. A module's own count is shared among those of its
    weights that are named, in proportion to their sizes (a multi-head attention's projections, for instance).
    Products of activations with activations (attention's scores) are in the model's count alone, as pruning does not
    touch them. What the counter does not know, such as ``nn.Bilinear``, counts as 0.
    """
    with evaluating(model), _counted_operators(model), FlopCounterMode(display=False) as counter:
        model(*example_inputs) if isinstance(example_inputs, tuple | list) else model(example_inputs)
    root = type(model).__name__
    totals = {"": 0} | {
        name.removeprefix(root).removeprefix("."): sum(n for op, n in ops.items() if op not in _OF_ACTIVATIONS) // 2
        for name, ops in counter.get_flop_counts().items()
        if name == root or name.startswith(f"{root}.")
    }
    own = dict(totals)
    for name, count in totals.items():
        if name:
            parent = name.rpartition(".")[0]
            while parent not in own:
                parent = parent.rpartition(".")[0]
            own[parent] -= count
    weights = dict(model.named_parameters(remove_duplicate=False))
    by_module: dict[str, list[str]] = {}
    for name in names:
        owner = name.rpartition(".")[0]
        while owner not in own and owner:
            owner = owner.rpartition(".")[0]  # called through its parent's code, as attention's output projection
        by_module.setdefault(owner, []).append(name)
    shares = {}
    for owner, members in by_module.items():
        size = sum(weights[name].numel() for name in members)
        for name in members:
            shares[name] = own.get(owner, 0) * weights[name].numel() // size
    return shares, counter.get_total_flops() // 2


def table(head: list[str], rows: list[list[str]], left: int = 2) -> list[str]:
    """Lines of a plain table: the first columns to the left, all others to the right, the last row below a rule."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: list[str]) -> str:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    return [line(head), rule, *map(line, rows[:-1]), rule, line(rows[-1])]
