"""What is in a packed file, layer by layer and part by part."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsecycle.files.contents import DTYPES, About, Contents, Matrix
from sparsecycle.files.packed import file_in, read_contents
from sparsecycle.report import table

__all__ = ["Inspection", "inspect"]


@dataclass(frozen=True)
class Inspection:
    """A packed file's contents and sizes; ``print(inspection)`` is a table, :meth:`to_dict` plain data.

    Args:
        path: The file.
        contents: Its table of contents.
        bytes: Its size.
    """

    path: Path
    contents: Contents
    bytes: int

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of each part of the file: all matrices' positions, scales and values, other tensors, and the rest."""
        matrices = [matrix.parts for matrix in self.contents.matrices]
        found = {part: sum(its[part] for its in matrices) for part in ("positions", "values", "scales")}
        found["other tensors"] = sum(sum(dense.lengths) for dense in self.contents.dense)
        return found | {"header and table": self.bytes - sum(found.values())}

    @property
    def kept(self) -> int:
        """Number of weights of matrices that are not zero."""
        return sum(matrix.kept for matrix in self.contents.matrices)

    @property
    def sparsity(self) -> float:
        """Share of the matrices' weights that are zero."""
        weights = sum(matrix.weights for matrix in self.contents.matrices)
        return 1 - self.kept / weights if weights else 0.0

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense network's tensors."""
        return self.contents.dense_bytes

    @property
    def bound(self) -> float:
        """Bytes of the entropy of the masks, layer by layer, and of the values and other tensors as they are."""
        masks = sum(matrix.weights * _entropy(matrix.kept / matrix.weights) / 8 for matrix in self.contents.matrices)
        values = sum(matrix.kept * _width(matrix) for matrix in self.contents.matrices)
        return masks + values + sum(dense.dense_bytes for dense in self.contents.dense)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            **asdict(self.contents),
            "bytes": self.bytes,
            "dense_bytes": self.dense_bytes,
            "bound": self.bound,
            "sparsity": self.sparsity,
            "parts": self.parts,
        }

    def __str__(self) -> str:
        about, matrices = self.contents.about, self.contents.matrices
        rows = []
        for m in matrices:
            counts = [f"{m.weights:,}", f"{m.kept:,}", f"{1 - m.kept / m.weights:.2%}"]
            sizes = _sizes(sum(m.lengths), self.bytes, m.dense_bytes)
            rows.append([m.name, "×".join(map(str, m.shape)), *counts, _stored(m), *sizes])
        for its in self.contents.dense:
            sizes = _sizes(sum(its.lengths), self.bytes, its.dense_bytes)
            rows.append([f"other {its.dtype}", f"{len(its.shapes)} tensors", f"{its.weights:,}", "", "", "", *sizes])
        weights = sum(stored.weights for stored in self.contents.stored)
        sizes = _sizes(self.bytes, self.bytes, self.dense_bytes)
        rows.append(["all", "", f"{weights:,}", f"{self.kept:,}", f"{self.sparsity:.2%}", "", *sizes])
        head = ["layer", "shape", "weights", "kept", "sparsity", "stored as", "bytes", "share", "smaller"]
        parts = [[part, f"{size:,}", f"{size / self.bytes:.1%}"] for part, size in self.parts.items() if size]
        parts.append(["all", f"{self.bytes:,}", "100.0%"])
        lines = [*table(head, rows), "", *table(["part of the file", "bytes", "share"], parts, left=1), ""]
        lines.append(f"{self.path}: {self.bytes:,} bytes; the dense network has {self.dense_bytes:,}")
        lines.append(
            f"{self.bytes / self.bound:.3f} of the masks' entropy and the plain values, {self.bound:,.0f} bytes; "
            f"{8 * (self.bytes / max(1, self.kept)):.2f} bits a kept weight, all counted"
        )
        if about.factory is not None:
            lines.append(f"made by {about.factory}, called with {about.arguments}")
        if about.shape is not None:
            normalised = [f"{of} {', '.join(f'{v:.4g}' for v in values)}" for of, values in _normalisation(about)]
            lines.append(", ".join([f"input of shape {about.shape}", *normalised]))
        if about.classes is not None:
            lines.append(f"{len(about.classes)} classes: {', '.join(about.classes[:10])}{_more(about.classes)}")
        return "\n".join(lines)


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Look into a packed file, or a folder with one, without unpacking its tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not whole, or not what was written.
    """
    path = file_in(path)
    return Inspection(path, read_contents(path), path.stat().st_size)


def _normalisation(about: About) -> list[tuple[str, tuple[float, ...]]]:
    return [(of, values) for of, values in (("mean", about.mean), ("deviation", about.std)) if values]


def _entropy(share: float) -> float:
    """Bits a weight of a mask that keeps this share."""
    return -sum(p * math.log2(p) for p in (share, 1 - share) if p)


def _width(matrix: Matrix) -> int:
    return 1 if matrix.stored == "int8" else DTYPES[matrix.stored].itemsize


def _stored(matrix: Matrix) -> str:
    """How, in words: the positions' code, what the mask was reduced by, and the values' type."""
    code = f"rice {matrix.k}" if matrix.code == "rice" else matrix.code
    size = [str(b) for b in matrix.block]
    words = ["dense"] if code == "all" and matrix.kept == matrix.weights else [code]
    words += [f"blocks {'×'.join(size)}"] if set(size) != {"1"} else []
    words += ["living channels"] if any(matrix.alive) else []
    return f"{' in '.join(words)}, {matrix.stored}"


def _sizes(size: int, file: int, dense: int) -> list[str]:
    return [f"{size:,}", f"{size / file:.1%}", f"{dense / size:.1f} times" if size else ""]


def _more(classes: tuple[str, ...]) -> str:
    return ", ..." if len(classes) > 10 else ""
