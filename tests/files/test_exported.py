from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsecycle.files.exported import Exported, check, graph, placed, quiet

X = torch.linspace(-1, 1, 12).view(2, 2, 3)


class Several(nn.Module):
    """Outputs at several places, one of them huge, one not finite, and one of nothing but zeros."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"small": x, "others": (1e6 * x, [x / 0]), "zeros": 0 * x, "none": None}


class Hundredfold(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 100 * x, x


class Zeros(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def same(inputs: Sequence[Tensor]) -> list[Tensor]:
    (x,) = inputs
    return [x, 1e6 * x, x / 0, 0 * x]


def test_what_computes_the_same_has_no_error() -> None:
    assert check(Several(), [X], True, same, "it") == 0.0


def test_the_error_is_a_share_of_the_outputs_largest_value() -> None:
    model = Hundredfold()
    largest = [x.abs().max().item() for x in trials(dynamic_batch=True)]
    found = check(model, [X], True, lambda inputs: [100 * inputs[0] + 5e-4, inputs[0]], "it")
    assert found == pytest.approx(5e-6 / min(largest), rel=1e-2)
    assert check(model, [X], True, lambda inputs: [100 * inputs[0], inputs[0] + 5e-6], "it") < 1e-5
    with pytest.raises(ValueError, match=r"it computes something else: an output differs by .*e-04 of its largest"):
        check(model, [X], True, lambda inputs: [100 * inputs[0], inputs[0] + 5e-4], "it")


def trials(dynamic_batch: bool, x: Tensor = X) -> list[Tensor]:
    seen: list[Tensor] = []

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        seen.extend(inputs)
        return list(inputs)

    assert check(nn.Identity(), [x], dynamic_batch, run, "it") == 0.0
    return seen


@pytest.mark.parametrize(("dynamic_batch", "batches"), [(False, [2, 2]), (True, [2, 2, 5])])
def test_examples_random_numbers_and_another_batch_are_tried(dynamic_batch: bool, batches: list[int]) -> None:
    example, *others = trials(dynamic_batch)
    assert torch.equal(example, X)
    assert [x.shape for x in (example, *others)] == [(count, 2, 3) for count in batches]
    assert all(x.std() > 0.5 for x in others)


def test_whole_numbers_are_the_examples() -> None:
    example = torch.tensor([[3, 17], [99, 3]])
    _, random, more = trials(True, example)
    assert random.dtype == torch.int64
    assert not torch.equal(random, example)
    assert {*random.flatten().tolist(), *more.flatten().tolist()} == {3, 17, 99}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda inputs: [inputs[0] + math.nan], "differs by nan of its largest value, allowed is 1e-05"),
        (lambda inputs: [inputs[0][:1]], "differs by inf of its largest value"),
        (lambda inputs: [inputs[0]] * 2, "it gives 2 outputs where the network gives 1 tensors"),
        (lambda inputs: [inputs[7]], r"it cannot run it for \(2, 2, 3\) \(list index .*\)"),
    ],
    ids=["nan", "shape", "outputs", "failure"],
)
def test_other_results_are_refused(run: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(nn.Identity(), [X], True, run, "it")


def test_a_difference_from_zeros_is_infinite() -> None:
    with pytest.raises(ValueError, match="differs by inf"):
        check(Zeros(), [X], False, lambda inputs: [inputs[0] * 1e-30], "it")


def test_the_graph_is_of_evaluation_and_of_any_batch() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(2))
    model[2].eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exported = graph(model, placed(X[:1], True), True).module()
    assert [module.training for module in model.modules()] == modes == [True, True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.eval()
    for count in (2, 7):
        images = torch.randn(count, 2, 3)
        assert torch.equal(exported(images), model(images))


def test_a_compiled_network_keeps_its_names() -> None:
    assert list(graph(torch.compile(nn.Linear(3, 2), backend="eager"), [X], True).state_dict) == ["weight", "bias"]


def test_a_network_that_fixes_its_batch_is_told_so() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(4, -1) + x.view(4, -1)[: x.shape[0] == 2]

    with pytest.raises(ValueError, match=r"^Fixed cannot be exported for any batch \(.*\)$"):
        graph(Fixed(), [X], True)
    exported = graph(Fixed(), [X], False).module()
    assert torch.equal(exported(X), Fixed()(X))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "example_inputs is empty"),
        ([X, 3], r"example_inputs\[1\] is of type int"),
        (
            [X, X[0, 0]],
            r"shapes \(2, 2, 3\), \(3,\), which share no first dimension, the batch: with dynamic_batch=Fal",
        ),
        ([torch.tensor(1.0)], r"the shapes \(\), which share no first dimension"),
        ([X[:0]], r"the shapes \(0, 2, 3\), which"),
    ],
    ids=["none", "type", "batches", "scalar", "empty"],
)
def test_inputs_that_fit_no_batch_are_refused(inputs: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        placed(inputs, True)


def test_a_fixed_batch_takes_any_tensors() -> None:
    assert [x.shape for x in placed([X, torch.tensor(1.0)], False)] == [(2, 2, 3), ()]


def test_failures_are_one_line_and_name_their_cause(caplog: pytest.LogCaptureFixture) -> None:
    @quiet("it failed")
    def export() -> None:
        warnings.warn("how the network is written", stacklevel=1)
        logging.getLogger("torch.onnx.any").warning("what is not installed")
        raise RuntimeError("second") from ValueError("first\nand more")

    with pytest.raises(ValueError, match=r"^it failed \(first\)$"):
        export()
    assert caplog.records == []


def test_what_was_written_reads_well() -> None:
    checked = Exported(Path("net.onnx"), 1_234_567, "ort 1.31", 3.2e-7)
    assert str(checked) == "net.onnx: 1.23 MB, checked: the outputs of ort 1.31 are within 3.2e-07 of the largest"
    unchecked = Exported(Path("net.onnx"), 1_234_567, lacking="onnxruntime")
    assert str(unchecked).endswith(", not checked: that takes onnxruntime, pip install 'sparsecycle[export]'")
