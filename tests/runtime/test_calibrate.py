from __future__ import annotations

import pytest
import torch
from torch import nn

import sparsecycle as sc

pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


def kinds(compiled):
    """Of each layer, whether it is in 8 bits."""
    (quantized,) = compiled.quantized
    return [value in quantized.weights for value in (1, 2, 3)]


def test_int8_is_near_and_saves_and_loads(model, tmp_path):
    x = torch.randn(8, 16)
    compiled = sc.runtime.compile(model, x, threads=1, values="int8", calibration=[torch.randn(64, 16)])
    assert error(compiled(x), model(x).detach()) < 0.05
    assert kinds(compiled) == [True, True, True]
    sc.runtime.save(compiled, tmp_path / "net")
    assert torch.equal(sc.runtime.load(tmp_path / "net")(x), compiled(x))


def test_named_modules_stay_in_float32(model):
    x = torch.randn(8, 16)
    batches = [torch.randn(64, 16)]
    compiled = sc.runtime.compile(model, x, threads=1, values="int8", calibration=batches, keep=["2"])
    assert kinds(compiled) == [True, False, True]


def test_a_bound_on_the_error_holds_on_the_calibration(model):
    batch = torch.randn(8, 16)
    free = sc.runtime.compile(model, batch, threads=1, values="int8", calibration=[batch])
    loose = error(free(batch), model(batch).detach())
    bound = 0.7 * loose
    held = sc.runtime.compile(model, batch, threads=1, values="int8", calibration=[batch], bound=bound)
    assert error(held(batch), model(batch).detach()) <= 1.05 * bound
    assert 0 <= sum(kinds(held)) < 3
    exact = sc.runtime.compile(model, batch, threads=1, values="int8", calibration=[batch], bound=0.0)
    assert kinds(exact) == [False, False, False]
    assert error(exact(batch), model(batch).detach()) < 1e-6


def test_a_loaders_labels_are_left_out(model):
    x = torch.randn(8, 16)
    batches = [(torch.randn(4, 16), torch.zeros(4))]
    plain = [torch.clone(batches[0][0])]
    first = sc.runtime.compile(model, x, threads=1, values="int8", calibration=batches)
    second = sc.runtime.compile(model, x, threads=1, values="int8", calibration=plain)
    assert torch.equal(first(x), second(x))


def test_parts_in_torch_are_run_between(model):
    mixed = nn.Sequential(model, nn.GELU(), nn.Linear(4, 8)).eval()
    x = torch.randn(8, 16)
    compiled = sc.runtime.compile(mixed, x, threads=1, values="int8", calibration=[torch.randn(8, 16)])
    assert len(compiled.quantized) == 2
    assert error(compiled(x), mixed(x).detach()) < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": "int8"}, "calibration has no batches"),
        (
            {"values": "int8", "calibration": [torch.zeros(4, 15)]},
            "calibration batch 0 is torch.float32 on cpu, (4, 15)",
        ),
        ({"values": "int8", "calibration": [()]}, "calibration batch 0 has 0 tensors; the network has 1 inputs"),
        (
            {"values": "int8", "calibration": [torch.zeros(4, 16)], "keep": ["fc"]},
            "keep has 'fc'; it must have names of",
        ),
        ({"values": "fp32", "keep": ["0"]}, "calibration, keep and bound are for values='int8', not for 'fp32'"),
    ],
    ids=["none", "shape", "number", "name", "fp32"],
)
def test_other_arguments_are_refused(model, arguments, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at below
        sc.runtime.compile(model, torch.randn(8, 16), threads=1, **arguments)
    assert message in str(caught.value)
