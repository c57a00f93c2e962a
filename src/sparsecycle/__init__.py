"""sparsecycle: train once, get a small, fast network."""

from sparsecycle import methods
from sparsecycle.criteria import Magnitude, MagnitudeGain, Random
from sparsecycle.report import Report
from sparsecycle.schedules import (
    AGP,
    Alternating,
    Constant,
    Cosine,
    Cyclical,
    DenseSparseDense,
    Exponential,
    Iterative,
    Linear,
    OneCycle,
    OneShot,
    Schedule,
)
from sparsecycle.sparsifier import Sparsifier

__version__ = "0.1.0"

__all__ = [
    "AGP",
    "Alternating",
    "Constant",
    "Cosine",
    "Cyclical",
    "DenseSparseDense",
    "Exponential",
    "Iterative",
    "Linear",
    "Magnitude",
    "MagnitudeGain",
    "OneCycle",
    "OneShot",
    "Random",
    "Report",
    "Schedule",
    "Sparsifier",
    "__version__",
    "methods",
]
