"""What the machine offers: device, precision, memory layout, and a description of it to keep with results."""

from __future__ import annotations

import functools
import logging
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparsecycle.lab.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["channels_last", "describe", "fabric_for", "has_bf16", "has_int8_sums", "pick_device", "precision"]

_CPU_INFO = Path("/proc/cpuinfo")
#: Flags of /proc/cpuinfo (x86-64; aarch64) under which oneDNN multiplies bf16 faster than fp32. Without
#: them it emulates bf16 and is slower.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
_INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})


def pick_device(name: str = "auto") -> torch.device:
    """``auto``: the first CUDA device where there is one, else the CPU; otherwise torch's name of a device.

    Raises:
        ValueError: the name is not a device's, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={name!r} cannot be used here ({reason}); allowed are auto, cpu, cuda, cuda:N, mps"
        ) from error
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether ``device`` computes in bf16 rather than emulating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(_BF16_FLAGS & set(_cpu_flags()))
    return False


def has_int8_sums() -> bool:
    """Whether the CPU has an instruction that adds up four products of int8 numbers in 32 bits."""
    return bool(_INT8_FLAGS & set(_cpu_flags()))


def _convolutional(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def precision(recipe: Recipe, model: nn.Module, device: torch.device) -> str:
    """``fp32`` or ``bf16``. Networks of linear layers alone gain nothing from bf16 at these sizes."""
    if recipe.precision != "auto":
        return recipe.precision
    return "bf16" if _convolutional(model) and has_bf16(device) else "fp32"


def channels_last(recipe: Recipe, model: nn.Module) -> bool:
    """Whether images and kernels lie channels last."""
    return _convolutional(model) if recipe.channels_last == "auto" else recipe.channels_last


def fabric_for(device: torch.device, precision: str) -> Fabric:
    """Lightning Fabric on one device, for autocast and backward; ``precision`` is ``fp32`` or ``bf16``."""
    # Its import takes over a second, which a command's help should not pay.
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise ImportError("training needs lightning-fabric: pip install 'sparsecycle[lab]'") from error
    log = logging.getLogger("lightning_fabric.utilities.rank_zero")
    level = log.level
    log.setLevel(logging.WARNING)  # It announces the precision of every run.
    try:
        return Fabric(
            accelerator=device.type,
            devices=1 if device.index is None else [device.index] if device.type == "cuda" else 1,
            precision={"fp32": "32-true", "bf16": "bf16-mixed"}[precision],  # type: ignore[arg-type]
        )
    finally:
        log.setLevel(level)


def describe(device: torch.device) -> dict[str, Any]:
    """Versions and machine, as plain values."""
    return {
        "sparsecycle": _version("sparsecycle"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
    }


@functools.cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


@functools.cache
def _cpu_info() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo; empty where there is no such file."""
    if sys.platform != "linux" or not _CPU_INFO.exists():
        return {}
    entries: dict[str, str] = {}
    for line in _CPU_INFO.read_text(errors="replace").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            entries.setdefault(key.strip(), value.strip())
    return entries


def _cpu_flags() -> list[str]:
    return (_cpu_info().get("flags") or _cpu_info().get("Features") or "").split()


def _cpu_name() -> str:
    return _cpu_info().get("model name") or platform.processor() or platform.machine()
