"""The laboratory's networks by name, and the user's own."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from sparsecycle.lab.models.conv import conv3, conv_2, conv_4, conv_6
from sparsecycle.lab.models.lenet import lenet_5_caffe, lenet_300_100
from sparsecycle.lab.models.linear import linear
from sparsecycle.lab.models.mobilenet import mobilenet_v2
from sparsecycle.lab.models.resnet import (
    resnet_18,
    resnet_20,
    resnet_20_a,
    resnet_32,
    resnet_32_a,
    resnet_50,
    resnet_56,
    resnet_56_a,
)
from sparsecycle.lab.models.shapes import Shape, check
from sparsecycle.lab.models.vgg import vgg_16, vgg_19, vgg_19_qureshi, vgg_like, vgg_like_snip
from sparsecycle.names import nearest

__all__ = ["MODELS", "Shape", "build", "factory_of"]

MODELS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "linear": linear,
    "lenet-300-100": lenet_300_100,
    "lenet-5-caffe": lenet_5_caffe,
    "conv-2": conv_2,
    "conv-4": conv_4,
    "conv-6": conv_6,
    "conv3": conv3,
    "vgg-like": vgg_like,
    "vgg-like-snip": vgg_like_snip,
    "vgg-16": vgg_16,
    "vgg-19": vgg_19,
    "vgg-19-qureshi": vgg_19_qureshi,
    "resnet-18": resnet_18,
    "resnet-20": resnet_20,
    "resnet-32": resnet_32,
    "resnet-50": resnet_50,
    "resnet-56": resnet_56,
    "resnet-20-a": resnet_20_a,
    "resnet-32-a": resnet_32_a,
    "resnet-56-a": resnet_56_a,
    "mobilenet-v2": mobilenet_v2,
}
"""Every built-in network by its name: a function of an image's shape (c, h, w) and the number of classes."""


def build(name: str, shape: Shape, classes: int) -> nn.Module:
    """Make a network from images (n, c, h, w) to logits (n, classes), freshly initialised.

    Args:
        name: one of ``MODELS``; or ``timm:NAME``, a network of timm without its trained weights; or
            ``package.module:factory``, which is imported and called as ``factory(shape, classes)``; the
            module is looked for among the installed packages, then in the current directory.
        shape: (channels, height, width) of one image.
        classes: number of classes.

    Raises:
        ValueError: if the name is not known (the message has the nearest that is), the network cannot be
            built for such images, or the user's factory is not there or gives no ``torch.nn.Module``.
        ImportError: if timm is asked for and not installed.
    """
    if name in MODELS:
        return MODELS[name](shape, classes)
    if name.startswith("timm:"):
        return _from_timm(name, shape, classes)
    if ":" in name:
        return _from_factory(name, shape, classes)
    raise ValueError(
        f"model {name!r} is not known{nearest(name, MODELS) or '.'} Known are {', '.join(MODELS)}, besides "
        f"timm:NAME and package.module:factory"
    )


def factory_of(name: str, shape: Shape, classes: int) -> tuple[str, tuple[Any, ...] | dict[str, Any]]:
    """What :func:`build` calls for these, as :func:`sparsecycle.save` takes it: a factory and its arguments."""
    if name.startswith("timm:"):
        words = {"model_name": name.removeprefix("timm:"), "in_chans": shape[0], "num_classes": classes}
        return "timm:create_model", words
    return name, (shape, classes)


def _from_timm(name: str, shape: Shape, classes: int) -> nn.Module:
    channels, _, _ = check(name, shape, classes)
    try:
        timm: Any = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise ImportError(f"model {name!r} needs the package timm: pip install timm", name="timm") from error
    network = name.removeprefix("timm:")
    if not timm.is_model(network):
        raise ValueError(f"model {name!r}: timm has no {network!r}{nearest(network, timm.list_models())}")
    return _module(name, timm.create_model(network, pretrained=False, in_chans=channels, num_classes=classes))


def _from_factory(name: str, shape: Shape, classes: int) -> nn.Module:
    check(name, shape, classes)
    path, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in path.split(".")) or not attribute.isidentifier():
        raise ValueError(f"model {name!r}: a network of your own is written package.module:factory")
    # A console script does not have the directory it is called from on its path, where one's own code is.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        # An import that fails inside the user's module is the user's to see, with its traceback.
        if error.name is None or not (path == error.name or path.startswith(f"{error.name}.")):
            raise
        raise ValueError(
            f"model {name!r}: there is no module {error.name!r}, installed or in the current directory"
        ) from error
    if not hasattr(module, attribute):
        raise ValueError(f"model {name!r}: {path} has no {attribute!r}{nearest(attribute, vars(module))}")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise ValueError(f"model {name!r} is of type {type(factory).__name__}; it needs a function (shape, classes)")
    return _module(name, factory(shape, classes))


def _module(name: str, made: object) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise ValueError(f"model {name!r} gave {type(made).__name__}; it needs a torch.nn.Module")
    return made
