from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from sparsecycle.criteria import Criterion
from sparsecycle.saliency import SNIP, GraSP, SynFlow

NO_MODEL = nn.Identity()  # for criteria that do not look at it


def weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (3, 4), "b.weight": (2, 3, 3, 3), "c": (5,)}
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def matrices(model: nn.Module) -> dict[str, Tensor]:
    return {name: w for name, w in model.named_parameters() if w.dim() > 1}


def score(criterion: Criterion, model: nn.Module, of: Mapping[str, Tensor] | None = None) -> list[Tensor]:
    with torch.no_grad():
        return criterion.score(matrices(model) if of is None else of, [], model)


def equal(these: Sequence[Tensor], those: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(these, those, strict=True))


def half_squares(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum() / 2


# --- SNIP and GraSP, by hand ------------------------------------------------------------------------------------------

# L = ½ Σ (x·w / T - y)²: g = Xᵀ(Xw / T - y) / T and H = XᵀX / T².


def linear(n: int = 6, seed: int = 0) -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    w = torch.randn(4, generator=generator, dtype=torch.float64)
    model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(w[None])
    return model, x, y, w


def in_batches(x: Tensor, y: Tensor, sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


@pytest.mark.parametrize("sizes", [[6], [2, 4], [1, 2, 3]], ids=str)
def test_snip_by_hand(sizes: list[int]) -> None:
    model, x, y, w = linear()
    (scored,) = score(SNIP(in_batches(x, y, sizes), half_squares), model)
    torch.testing.assert_close(scored, (w * (x.T @ (x @ w - y[:, 0])))[None], rtol=1e-12, atol=1e-12)


def test_snip_sums_gradients_before_it_takes_the_absolute_value() -> None:
    model = nn.Linear(2, 1, bias=False)
    x = torch.tensor([[1.0, 2.0]])
    batches = [(x, None), (-x, None), (torch.tensor([[0.0, 1.0]]), None)]  # of the first two nothing is left
    (scored,) = score(SNIP(batches, lambda output, _: output.sum()), model)
    assert scored.tolist() == [[0.0, model.weight[0, 1].item()]]


@pytest.mark.parametrize("temperature", [1, 3.0, 200.0])
@pytest.mark.parametrize("sizes", [[6], [2, 4], [1, 2, 3]], ids=str)
def test_grasp_by_hand(sizes: list[int], temperature: float) -> None:
    model, x, y, w = linear()
    g = x.T @ (x @ w / temperature - y[:, 0]) / temperature
    h = x.T @ x / temperature**2
    (scored,) = score(GraSP(in_batches(x, y, sizes), half_squares, temperature), model)
    torch.testing.assert_close(scored, (w * (h @ g))[None], rtol=1e-10, atol=1e-14)


def test_grasp_of_a_network_with_the_whole_hessian() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randint(0, 3, (8,))

    def loss(first: Tensor, second: Tensor) -> Tensor:
        hidden = torch.tanh(F.linear(x, first, model[0].bias))
        return F.cross_entropy(F.linear(hidden, second, model[2].bias) / 5, y)

    ws = (model[0].weight, model[2].weight)
    g = torch.autograd.functional.jacobian(loss, ws)
    hessian = torch.autograd.functional.hessian(loss, ws)
    expected = [
        w * sum(torch.tensordot(hessian[i][j], g[j], 2) for j in range(2)) for i, w in enumerate(ws)
    ]  # between the layers too: H is not that of each layer
    torch.testing.assert_close(score(GraSP([(x, y)], temperature=5), model), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", [SNIP, GraSP])
def test_the_weights_that_are_given_are_scored(kind: Callable[..., Criterion]) -> None:
    model, x, y, _ = linear()
    given_ones = {"weight": torch.tensor([[1.0, 0.0, -2.0, 0.5]], dtype=torch.float64)}
    other = copy.deepcopy(model)
    other.load_state_dict(given_ones)
    criterion = kind([(x, y)], half_squares)
    (scored,) = score(criterion, model, given_ones)
    assert torch.equal(scored, score(criterion, other)[0])
    assert scored[0, 1] == 0  # so that a pruned weight loses against all others where scores are absolute


@pytest.mark.parametrize("kind", [SNIP, GraSP])
def test_a_loss_that_does_not_depend_on_the_weights_scores_nothing(kind: Callable[..., Criterion]) -> None:
    model, x, y, _ = linear()
    assert not score(kind([(x, y)], lambda output, target: target.sum()), model)[0].any()
    assert not score(GraSP([(x, y)], lambda output, _: output.sum()), model)[0].any()  # its gradient is constant


@pytest.mark.parametrize("kind", [SNIP, GraSP])
def test_inputs_may_be_several(kind: Callable[..., Criterion]) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.tensor([[2.0, -1.0]]))

        def forward(self, x: Tensor, *, scale: float = 1.0, shift: Tensor | float = 0.0) -> Tensor:
            return (F.linear(x, self.matrix) * scale + shift).square()

    def total(output: Tensor, target: object) -> Tensor:
        return output.sum()

    x = torch.tensor([[1.0, 3.0]])
    plain, packed = (score(kind([(inputs, None)], total), Two()) for inputs in (x, (x,)))
    named = score(kind([({"x": x, "scale": 2.0, "shift": torch.ones(1)}, None)], total), Two())
    assert equal(plain, packed)
    assert plain[0].all()
    assert not torch.equal(plain[0], named[0])


# --- SynFlow, by hand -------------------------------------------------------------------------------------------------


def test_synflow_is_the_sum_over_the_paths() -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    first, second = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]]), torch.tensor([[-1.0, 2.0], [0.5, -4.0]])
    with torch.no_grad():
        model[0].weight.copy_(first)
        model[2].weight.copy_(second)
    scores = score(SynFlow((3,)), model)
    out = [1.5, 6.0]  # what leaves each hidden unit, and 3.5 and 4 arrive there
    assert scores[0].tolist() == [[1.0 * 1.5, 2.0 * 1.5, 0.5 * 1.5], [3.0 * 6.0, 0.0, 1.0 * 6.0]]
    assert scores[1].tolist() == [[1.0 * 3.5, 2.0 * 4.0], [0.5 * 3.5, 4.0 * 4.0]]
    assert [s.sum().item() for s in scores] == [3.5 * out[0] + 4.0 * out[1]] * 2  # the same flow through every layer
    assert scores[0].dtype == torch.float64


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.integers(0, 2**31))
def test_synflow_through_every_layer_is_the_same(widths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    layers = [nn.Linear(a, b, bias=False) for a, b in zip([3, *widths], widths, strict=False)]
    scores = score(SynFlow((3,)), nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())]))
    flow = torch.ones(3, dtype=torch.float64)
    for layer in layers:
        flow = layer.weight.detach().double().abs() @ flow
    for scored in scores:
        assert (scored >= 0).all()
        assert scored.sum().item() == pytest.approx(flow.sum().item(), rel=1e-9)


def test_synflow_takes_absolute_biases_and_statistics() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1, eps=0.0), nn.Linear(1, 1))
    with torch.no_grad():
        for i, value in ((0, -2.0), (1, -3.0), (2, -5.0)):
            model[i].weight.fill_(value)
            model[i].bias.fill_(-1.0)
        model[1].running_mean.fill_(-1.0)
        model[1].running_var.fill_(4.0)
    # (2 + 1 - 1) / 2 * 3 + 1 = 4 reaches the last weight; the first has a slope of 3 / 2 * 5.
    assert [s.item() for s in score(SynFlow((1,)), model)] == [2 * 7.5, 5 * 4.0]


def test_synflow_of_a_deep_network_overflows_float32_and_not_float64() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 48, 3, padding=1), nn.ReLU()]
    for _ in range(40):
        layers += [nn.Conv2d(48, 48, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    scores = score(SynFlow((3, 4, 4)), model)
    assert all(s.isfinite().all() for s in scores)
    assert min(s.max().item() for s in scores) > torch.finfo(torch.float32).max


def test_synflow_says_so_when_float64_overflows_too() -> None:
    model = nn.Sequential(nn.Linear(1, 1, dtype=torch.float64), nn.Linear(1, 1, dtype=torch.float64))
    with torch.no_grad():
        model[0].weight.fill_(1e200)
        model[1].weight.fill_(1e200)
    with pytest.raises(ValueError, match="the SynFlow score of 0.weight is NaN or infinite"):
        score(SynFlow((1,)), model)


# --- real networks ----------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 5, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0].mean(1))


class Attention(nn.Module):
    def __init__(self, need_weights: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=self.need_weights)[0].mean(1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))).mean(1))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.idle, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean(1))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(6, 5, 2),
        nn.BatchNorm1d(5),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(15, 8),
        nn.BatchNorm1d(8),
        nn.Linear(8, 3),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": convolutional,
    "lstm": Recurrent,
    "attention": Attention,
    "attention with weights": lambda: Attention(need_weights=True),
    "tied": Tied,
    "unused": Unused,
}


def data(seed: int, n: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, 4, generator=generator), torch.randint(0, 3, (n,), generator=generator)


AT_START: dict[str, Criterion] = {
    "snip": SNIP([data(0)]),
    "snip, 2 batches": SNIP([data(0), data(1)]),
    "grasp": GraSP([data(0)], temperature=2.0),
    "grasp, 2 batches": GraSP([data(0), data(1)], temperature=2.0),
    "synflow": SynFlow((6, 4)),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("criterion", AT_START.values(), ids=AT_START)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_nothing_changes_but_scores_come_out(
    build: Callable[[], nn.Module], criterion: Criterion, training: bool
) -> None:
    torch.manual_seed(0)
    model = build().train(training)
    next(model.children()).train(not training)  # a part is in the other mode, as a frozen batch norm is
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, 0.5 + i)
    parameters = dict(model.named_parameters())
    before = copy.deepcopy(model)
    grads = {name: parameter.grad for name, parameter in parameters.items()}
    modes = [module.training for module in model.modules()]
    rng, cudnn = torch.get_rng_state(), torch.backends.cudnn.enabled
    scores = score(criterion, model)

    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.backends.cudnn.enabled == cudnn
    assert [module.training for module in model.modules()] == modes
    now = dict(model.named_parameters())
    assert all(now[name] is parameter and parameter.requires_grad for name, parameter in parameters.items())
    assert all(p.grad is grads[name] and (p.grad == 0.5 + i).all() for i, (name, p) in enumerate(parameters.items()))
    old, new = before.state_dict(), model.state_dict()
    assert old.keys() == new.keys()
    assert equal(list(old.values()), list(new.values()))
    x, _ = data(2)
    assert torch.equal(model.eval()(x), before.eval()(x))
    assert [s.shape for s in scores] == [w.shape for w in matrices(model).values()]
    assert all(s.isfinite().all() and not s.requires_grad for s in scores)
    for name, scored in zip(matrices(model), scores, strict=True):
        assert bool(scored.any()) == ("idle" not in name), name


@pytest.mark.parametrize("criterion", AT_START.values(), ids=AT_START)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_scores_are_the_same_every_time(build: Callable[[], nn.Module], criterion: Criterion) -> None:
    torch.manual_seed(0)
    model = build()
    first = score(criterion, model)
    assert equal(first, score(criterion, model))
    assert equal(first, criterion.score(matrices(model), [], model))  # also where gradients are on


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_snip_is_the_weight_times_the_gradient_of_backward(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build()
    rng = torch.get_rng_state()
    scores = score(SNIP([data(0)]), model)
    torch.set_rng_state(rng)
    F.cross_entropy(model(data(0)[0]), data(0)[1]).backward()
    for w, scored in zip(matrices(model).values(), scores, strict=True):
        g = torch.zeros_like(w) if w.grad is None else w.grad
        torch.testing.assert_close(scored, (w * g).detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_grasp_of_one_batch_is_a_quarter_of_that_of_the_same_batch_twice(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build().double().eval()
    x, y = data(0)
    once, twice = (score(GraSP([(x.double(), y)] * n, temperature=2.0), model) for n in (1, 2))
    for a, b in zip(once, twice, strict=True):  # both g and H double
        torch.testing.assert_close(4 * a, b, rtol=1e-8, atol=1e-14)


def test_a_network_that_raises_is_as_it_was() -> None:
    model = convolutional()
    state, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(RuntimeError):
        score(SynFlow((7, 4)), model)
    assert all(module.training for module in model.modules())
    assert equal(list(state.values()), list(model.state_dict().values()))
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(p.grad is None for p in model.parameters())


def test_synflow_calls_no_train_or_eval_of_the_networks_own() -> None:
    class Merging(nn.Linear):
        def train(self, mode: bool = True) -> Any:
            raise AssertionError("such a method may change weights")

    assert score(SynFlow((3,)), nn.Sequential(Merging(3, 2)))[0].shape == (2, 3)


@pytest.mark.parametrize("criterion", AT_START.values(), ids=AT_START)
@pytest.mark.parametrize(("build", "off"), [(Recurrent, True), (Attention, False)])
def test_cudnn_is_off_for_recurrent_layers_alone(
    build: Callable[[], nn.Module], off: bool, criterion: Criterion
) -> None:
    seen = []
    model = build()
    model.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.enabled))
    before = torch.backends.cudnn.enabled
    score(criterion, model)
    assert set(seen) == {before and not off}
    assert torch.backends.cudnn.enabled == before


def test_half_precision_scores_are_float32() -> None:
    model = nn.Linear(4, 3).bfloat16()
    x, y = torch.randn(5, 4).bfloat16(), torch.tensor([0, 1, 2, 0, 1])
    for criterion in (SNIP([(x, y)]), GraSP([(x, y)] * 2)):
        (scored,) = score(criterion, model)
        assert scored.dtype == torch.float32
        assert scored.isfinite().all()


@pytest.mark.parametrize("kind", [SNIP, GraSP])
def test_scores_that_are_not_finite_are_refused(kind: Callable[..., Criterion]) -> None:
    model, x, y, _ = linear()
    with pytest.raises(ValueError, match="score of weight is NaN or infinite"):
        score(kind([(x * math.nan, y)], half_squares), model)


@pytest.mark.parametrize("criterion", [GraSP([data(0)]), SynFlow((6, 4))], ids=["GraSP", "SynFlow"])
def test_an_output_that_is_no_tensor_is_refused(criterion: Criterion) -> None:
    model = nn.LSTM(4, 5, batch_first=True)
    with pytest.raises(
        ValueError, match=f"{type(criterion).__name__} needs a network that returns one tensor, not a tuple"
    ):
        score(criterion, model)


# --- what is not allowed ----------------------------------------------------------------------------------------------

X, Y = torch.zeros(4, 2), torch.zeros(4)


@pytest.mark.parametrize("kind", [SNIP, GraSP])
@pytest.mark.parametrize(
    ("batches", "said"),
    [
        (DataLoader(TensorDataset(X, Y)), "must be a list of pairs (inputs, targets), such as [next(iter(loader))]"),
        (iter([(X, Y)]), "not a list_iterator"),
        (None, "not a NoneType"),
        ([], "=[] is empty: it must be a list of pairs"),
        ((), "=() is empty: it must be a list of pairs"),
        ((X, Y), "batches[0] is a Tensor"),
        ([(X, Y), (X,)], "batches[1] is a tuple"),
        ([(X, Y, Y)], "batches[0] is a tuple"),
        ([X], "batches[0] is a Tensor"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_batches_are_pairs(kind: Callable[..., Criterion], batches: Any, said: str) -> None:
    with pytest.raises(ValueError, match=rf"^batches.*{re.escape(said)}"):
        kind(batches)


def test_what_a_loader_gives_is_a_batch() -> None:
    loader = DataLoader(TensorDataset(*data(0)), batch_size=4)
    assert score(SNIP([next(iter(loader))]), Tied())[0].any()


@pytest.mark.parametrize("rounds", [0, -1, 1.0, 2.5, True, "3", None])
@pytest.mark.parametrize(
    "build",
    [lambda n: SNIP([(X, Y)], rounds=n), lambda n: GraSP([(X, Y)], rounds=n), lambda n: SynFlow((2,), rounds=n)],
    ids=["SNIP", "GraSP", "SynFlow"],
)
def test_rounds_are_whole(build: Callable[[Any], Criterion], rounds: Any) -> None:
    with pytest.raises(ValueError, match=f"rounds={rounds!r} must be a whole number of at least 1"):
        build(rounds)


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan])
def test_temperature_is_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature={temperature!r} must be greater than 0, and finite"):
        GraSP([(X, Y)], temperature=temperature)


@pytest.mark.parametrize("shape", [784, (), [], (3, 0), (3, -1), (3, 2.0), (True,), "ab", None, (None, 3)], ids=repr)
def test_input_shapes_are_whole(shape: Any) -> None:
    said = f"input_shape={shape!r} must be whole numbers of at least 1, such as (3, 32, 32)"
    with pytest.raises(ValueError, match=re.escape(said)):
        SynFlow(shape)


@pytest.mark.parametrize("path", ["cubic", "", None])
def test_paths_have_names(path: Any) -> None:
    with pytest.raises(ValueError, match=f"path={path!r} must be 'exponential' or 'linear'"):
        SynFlow((2,), path=path)


def test_a_shape_of_any_kind_is_the_same_shape() -> None:
    assert SynFlow([3, 8, 8]) == SynFlow((3, 8, 8)) == SynFlow(torch.Size([3, 8, 8]))
