"""sparsecycle: train once, get a small, fast network."""

from sparsecycle import methods, runtime
from sparsecycle.criteria import Magnitude, MagnitudeGain, Movement, Random, Taylor
from sparsecycle.files.folder import save_pretrained
from sparsecycle.files.inspection import inspect
from sparsecycle.files.packed import load, save
from sparsecycle.recovery import Recovery, Regrow
from sparsecycle.report import Report
from sparsecycle.saliency import SNIP, GraSP, SynFlow
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
from sparsecycle.tickets import Ticket, colt, lottery_ticket

__version__ = "0.1.0"

__all__ = [
    "AGP",
    "SNIP",
    "Alternating",
    "Constant",
    "Cosine",
    "Cyclical",
    "DenseSparseDense",
    "Exponential",
    "GraSP",
    "Iterative",
    "Linear",
    "Magnitude",
    "MagnitudeGain",
    "Movement",
    "OneCycle",
    "OneShot",
    "Random",
    "Recovery",
    "Regrow",
    "Report",
    "Schedule",
    "Sparsifier",
    "SynFlow",
    "Taylor",
    "Ticket",
    "__version__",
    "colt",
    "inspect",
    "load",
    "lottery_ticket",
    "methods",
    "runtime",
    "save",
    "save_pretrained",
]
