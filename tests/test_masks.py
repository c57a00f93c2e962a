from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsecycle.masks import Masks, forget_momentum, pack, unpack

both = pytest.mark.usefixtures("path")  # by the native core, and without it
shapes = st.lists(st.integers(0, 9), max_size=4).map(tuple)


@given(shapes, st.integers(0, 2**31))
def test_packing_is_one_bit_a_weight_and_loses_nothing(shape: tuple[int, ...], seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    bits = pack(mask)
    assert bits.dtype == torch.uint8
    assert bits.shape == ((mask.numel() + 7) // 8,)
    again = unpack(bits, shape)
    assert again.dtype == torch.bool
    assert again.shape == mask.shape
    assert torch.equal(again, mask)


def test_bits_are_in_index_order_whatever_the_layout() -> None:
    mask = torch.tensor([[True, False, False], [True, True, True], [False, True, False]])
    assert pack(mask).tolist() == [0b10011101, 0]
    assert torch.equal(pack(mask.t().contiguous().t()), pack(mask))
    images = torch.rand(2, 3, 4, 5) < 0.5
    assert torch.equal(pack(images.contiguous(memory_format=torch.channels_last)), pack(images))
    assert unpack(torch.tensor([0b11000000], dtype=torch.uint8), ()).item() is True


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        (torch.zeros(1, dtype=torch.uint8), r"a mask of shape \(3, 3\) packs into 2 bytes, not into \(1,\)"),
        (torch.zeros(3, dtype=torch.uint8), r"not into \(3,\) of torch.uint8"),
        (torch.zeros(2), r"not into \(2,\) of torch.float32"),
        (torch.zeros(2, 1, dtype=torch.uint8), r"not into \(2, 1\) of torch.uint8"),
    ],
)
def test_bits_that_do_not_fit_are_refused(bits: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack(bits, (3, 3))


A = torch.tensor([[True, False], [False, True]])
B = torch.tensor([True, False, True])


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def weights(request: pytest.FixtureRequest, path: str) -> dict[str, nn.Parameter]:
    """Two weights; the native core takes them if neither is in float64."""
    return {
        "a": nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, -4.0]])),
        "b": nn.Parameter(torch.tensor([5.0, -6.0, 7.0], dtype=request.param)),
    }


@pytest.fixture
def masks(weights: dict[str, nn.Parameter]) -> Masks:
    masks = Masks(weights)
    masks.replace([A, B])
    return masks


def test_all_is_kept_at_first(weights: dict[str, nn.Parameter]) -> None:
    masks = Masks(weights)
    assert masks.kept() == {"a": 4, "b": 3}
    masks.enforce()
    assert weights["a"].tolist() == [[1, -2], [3, -4]]


def test_holds_what_it_is_given(masks: Masks, weights: dict[str, nn.Parameter]) -> None:
    assert masks.kept() == {"a": 2, "b": 2}
    assert masks["a"].dtype == torch.bool
    assert torch.equal(masks["a"], A)
    masks["a"].fill_(True)  # a copy
    assert torch.equal(masks["a"], A)
    assert weights["a"].tolist() == [[1, -2], [3, -4]]  # holding is not enforcing
    with pytest.raises(ValueError, match="zip"):
        masks.replace([A])


def test_enforce_zeroes_in_place(masks: Masks, weights: dict[str, nn.Parameter]) -> None:
    place = weights["a"].data_ptr()
    masks.enforce()
    assert weights["a"].tolist() == [[1, 0], [0, -4]]
    assert weights["b"].tolist() == [5, 0, 7]
    assert weights["a"].data_ptr() == place
    assert weights["a"].requires_grad


@both
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_masks_follow_the_weights_type_and_layout(layout: torch.memory_format, dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.randn(4, 3, 3, 3).to(dtype).contiguous(memory_format=layout))
    mask = torch.rand(4, 3, 3, 3) < 0.5
    masks = Masks({"w": weight})
    masks.replace([mask])
    expected = weight.detach() * mask
    masks.enforce()
    assert torch.equal(weight, expected)
    assert weight.stride() == expected.stride()
    assert torch.equal(unpack(pack(masks["w"]), (4, 3, 3, 3)), mask)


def test_settle_clears_gradients_and_optimizer_state(masks: Masks, weights: dict[str, nn.Parameter]) -> None:
    optimizer = torch.optim.Adam(weights.values())
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    came_back = {"a": torch.tensor([[True, False], [False, False]])}
    masks.settle(optimizer, came_back)
    assert weights["a"].grad is not None
    assert weights["a"].grad.tolist() == [[1, 0], [0, 1]]
    state = optimizer.state[weights["a"]]
    assert state["exp_avg"].count_nonzero() == 1
    assert state["exp_avg"][1, 1] == pytest.approx(0.1)
    assert state["exp_avg_sq"].count_nonzero() == 1
    assert state["step"] == 1  # the optimizer's clock is no weight's
    assert optimizer.state[weights["b"]]["exp_avg"].tolist() == pytest.approx([0.1, 0, 0.1])
    assert weights["a"][0, 1].item() != 0  # the weights themselves are left to enforce()


def test_enforce_leaves_no_negative_zero_where_asked(masks: Masks, weights: dict[str, nn.Parameter], path: str) -> None:
    masks.enforce()
    if path == "torch" or weights["b"].dtype == torch.float64:  # the core leaves none in any case
        assert torch.equal(torch.signbit(weights["a"]), torch.tensor([[False, True], [False, True]]))
    masks.enforce(negative=True)
    assert torch.equal(torch.signbit(weights["a"]), torch.tensor([[False, False], [False, True]]))
    assert not torch.signbit(weights["b"]).any()
    assert weights["a"].tolist() == [[1, 0], [0, -4]]


def test_autograd_notices_that_weights_were_zeroed(masks: Masks, weights: dict[str, nn.Parameter]) -> None:
    loss = weights["a"].square().sum() + weights["b"].square().sum()
    masks.enforce()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph=True")
def test_gradients_that_have_a_graph_are_masked_in_it(masks: Masks, weights: dict[str, nn.Parameter]) -> None:
    masks.hook_gradients()
    a = weights["a"]
    (a**3).sum().backward(create_graph=True)
    assert a.grad is not None
    assert a.grad.tolist() == [[3, 0], [0, 48]]
    (second,) = torch.autograd.grad(a.grad.sum(), a)
    assert second.tolist() == [[6, 0], [0, -24]]


def test_state_that_is_no_mapping_is_refused(masks: Masks, weights: dict[str, nn.Parameter]) -> None:
    optimizer = torch.optim.SGD(weights.values(), 0.1)
    optimizer.state[weights["b"]] = [torch.ones(3)]
    with pytest.raises(ValueError, match="an optimizer's state of a weight must be a mapping, not a list"):
        masks.settle(optimizer, {})


def test_part_and_join(masks: Masks, weights: dict[str, nn.Parameter]) -> None:
    before = {name: w.detach().clone() for name, w in weights.items()}
    stored = [torch.full_like(w, 9.0) for w in weights.values()]  # whatever was there
    masks.part(stored)
    assert weights["a"].tolist() == [[1, 0], [0, -4]]
    assert weights["b"].tolist() == [5, 0, 7]
    assert [s.tolist() for s in stored] == [[[0, -2], [3, 0]], [0, -6, 0]]
    assert not torch.signbit(weights["a"])[0, 1]
    with torch.no_grad():
        weights["a"][0, 0] = 10
    masks.join(stored)
    assert weights["a"].tolist() == [[10, -2], [3, -4]]
    assert torch.equal(weights["b"], before["b"])


@both
@given(st.integers(0, 2**31))
def test_parting_and_joining_loses_nothing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = nn.Parameter(torch.randn(5, 7, generator=generator) * 10 ** torch.randn(5, 7, generator=generator))
    before, stored = weight.detach().clone(), torch.empty(5, 7)
    masks = Masks({"w": weight})
    mask = torch.rand(5, 7, generator=generator) < 0.5
    masks.replace([mask])
    masks.part([stored])
    assert torch.equal(weight, before.masked_fill(~mask, 0))
    assert torch.equal(stored, before.masked_fill(mask, 0))
    masks.join([stored])
    assert torch.equal(weight, before)


def test_gradients_are_left_dense_while_asked(masks: Masks, weights: dict[str, nn.Parameter]) -> None:
    masks.hook_gradients()
    masks.dense_gradients = True
    assert masks.dense_gradients
    (weights["a"].sum() + weights["b"].sum()).backward()
    assert weights["a"].grad.tolist() == [[1, 1], [1, 1]]  # type: ignore[union-attr]
    masks.mask_gradients()
    assert weights["a"].grad.tolist() == [[1, 0], [0, 1]]  # type: ignore[union-attr]
    assert weights["b"].grad.tolist() == [1, 0, 1]  # type: ignore[union-attr]
    masks.dense_gradients = False
    weights["a"].grad = None
    weights["a"].sum().backward()
    assert weights["a"].grad.tolist() == [[1, 0], [0, 1]]  # type: ignore[attr-defined]
    weights["b"].grad = None
    masks.mask_gradients()  # a weight without a gradient has none to mask
    assert weights["b"].grad is None


@pytest.mark.parametrize(
    ("build", "cleared", "held"),
    [
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), ["momentum_buffer"], []),
        (lambda p: torch.optim.Adam(p, 0.1, amsgrad=True), ["exp_avg"], ["exp_avg_sq", "max_exp_avg_sq", "step"]),
        (lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.9), ["momentum_buffer"], ["square_avg", "step"]),
        (lambda p: torch.optim.SGD(p, 0.1), [], []),
    ],
)
def test_forget_momentum(build: Any, cleared: list[str], held: list[str]) -> None:
    model = nn.Linear(3, 2)
    optimizer = build(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    before = {
        p: {k: v.clone() for k, v in optimizer.state[p].items() if torch.is_tensor(v)} for p in model.parameters()
    }
    forget_momentum(optimizer)
    for p in model.parameters():  # biases too
        state = optimizer.state[p]
        for key in cleared:
            assert before[p][key].count_nonzero() == p.numel()
            assert state[key].count_nonzero() == 0
        for key in held:
            assert torch.equal(state[key], before[p][key])
            assert state[key].count_nonzero() > 0


def test_gradients_are_zero_as_soon_as_they_are_there(masks: Masks, weights: dict[str, nn.Parameter]) -> None:
    handles = masks.hook_gradients()
    for times in (1, 2):  # accumulated too
        (weights["a"].sum() + weights["b"].sum()).backward()
        assert weights["a"].grad.tolist() == [[times, 0], [0, times]]  # type: ignore[union-attr]
        assert weights["b"].grad.tolist() == [times, 0, times]  # type: ignore[union-attr]
    masks.replace([~A, B])  # the hooks know the mask of the moment
    weights["a"].grad = None
    weights["a"].sum().backward()
    assert weights["a"].grad.tolist() == [[0, 1], [1, 0]]  # type: ignore[attr-defined]
    for handle in handles:
        handle.remove()
    weights["a"].grad = None
    weights["a"].sum().backward()
    assert weights["a"].grad.tolist() == [[1, 1], [1, 1]]  # type: ignore[attr-defined]


def test_hooks_do_not_keep_the_masks_alive(weights: dict[str, nn.Parameter]) -> None:
    masks = Masks(weights)
    masks.hook_gradients()
    reference = weakref.ref(masks)
    del masks
    gc.collect()
    assert reference() is None


@pytest.fixture
def linear(path: str) -> tuple[nn.Module, Masks]:
    model = nn.Sequential(nn.Linear(2, 2))
    masks = Masks({"0.weight": model[0].weight})
    masks.replace([A])
    return model, masks


def test_apply_to_prunes_a_copy_and_an_average(linear: tuple[nn.Module, Masks]) -> None:
    model, masks = linear
    copy = nn.Sequential(nn.Linear(2, 2, dtype=torch.bfloat16))
    masks.apply_to(copy)
    assert torch.equal(copy[0].weight != 0, A)
    average = torch.optim.swa_utils.AveragedModel(model)
    masks.apply_to(average)
    assert torch.equal(average.module[0].weight != 0, A)
    assert model[0].weight.count_nonzero() == 4


def test_apply_to_refuses_another_network_and_changes_nothing(linear: tuple[nn.Module, Masks]) -> None:
    _, masks = linear
    with pytest.raises(ValueError, match=r"0.weight of shape \(2, 2\) is .*, but the model has shape \(3, 2\)"):
        masks.apply_to(nn.Sequential(nn.Linear(2, 3)))
    with pytest.raises(ValueError, match=r"0.weight of shape \(2, 2\) is .*, but the model has no such weight"):
        masks.apply_to(nn.Linear(2, 2))
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    both = Masks({"0.weight": first.weight, "1.weight": second.weight})
    both.replace([A, A])
    half = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="1.weight"):
        both.apply_to(half)
    assert half[0].weight.count_nonzero() == 4
