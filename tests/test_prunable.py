from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsecycle.prunable import choose, own_sparsities


class Net(nn.Module):
    """A convolution, a norm, an embedding, a block of two linear layers, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.words = nn.Embedding(10, 4)
        self.block = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4))
        self.head = nn.Linear(4, 2)


ALL = ["stem.weight", "block.0.weight", "block.2.weight", "head.weight"]


def test_by_default_every_convolution_and_linear_layer_first_and_last_included() -> None:
    net = Net()
    choice = choose(net)
    assert list(choice.weights) == ALL
    assert all(choice.weights[name] is net.get_parameter(name) for name in ALL)
    assert choice.left_out == {"words.weight": "Embedding"}  # norms and biases are no matrices


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(3, 2),
        nn.Bilinear(3, 4, 2),
        nn.Conv1d(3, 2, 3),
        nn.Conv2d(3, 2, 3),
        nn.Conv3d(3, 2, 3),
        nn.ConvTranspose2d(3, 2, 3),
    ],
    ids=lambda module: type(module).__name__,
)
def test_kinds_with_one_weight(module: nn.Module) -> None:
    assert list(choose(module).weights) == ["weight"]


def test_multi_head_attention() -> None:
    assert list(choose(nn.MultiheadAttention(8, 2)).weights) == ["in_proj_weight", "out_proj.weight"]
    separate = choose(nn.MultiheadAttention(8, 2, kdim=6, vdim=4, add_bias_kv=True))
    assert list(separate.weights) == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]
    assert [tuple(w.shape) for w in separate.weights.values()] == [(8, 8), (8, 6), (8, 4), (8, 8)]
    assert separate.left_out == {"bias_k": "MultiheadAttention", "bias_v": "MultiheadAttention"}


def test_recurrent_layers_and_cells() -> None:
    lstm = choose(nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2))
    assert len(lstm.weights) == 2 * 2 * 3
    assert {name.rpartition("_l")[0] for name in lstm.weights} == {"weight_ih", "weight_hh", "weight_hr"}
    assert list(choose(nn.GRU(3, 4)).weights) == ["weight_ih_l0", "weight_hh_l0"]
    assert list(choose(nn.GRUCell(3, 4)).weights) == ["weight_ih", "weight_hh"]
    assert list(choose(nn.LSTMCell(3, 4)).weights) == ["weight_ih", "weight_hh"]


def test_a_head_tied_to_an_embedding_is_left_out() -> None:
    net = Net()
    net.head = nn.Linear(4, 10)
    net.head.weight = net.words.weight
    choice = choose(net)
    assert list(choice.weights) == ALL[:3]
    assert choice.left_out == {"words.weight": "Embedding"}
    # Asked for by either name, it is pruned once.
    for pattern in ("head", "words.weight", nn.Embedding):
        assert list(choose(net, include=[pattern]).weights) == ["words.weight"]
    assert list(choose(net, include=["words", "block.*"], exclude=["head"]).weights) == ALL[1:3]


def test_tied_linear_layers_count_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    assert list(choose(net).weights) == ["0.weight"]
    with pytest.raises(ValueError, match=r"no weight to prune: 0.weight \(exclude=2\)"):
        choose(net, exclude=["2"])


def test_a_shared_module_counts_once_under_its_first_name() -> None:
    shared = nn.Linear(4, 4)
    net = nn.ModuleDict({"first": shared, "between": nn.Linear(4, 4), "second": shared})
    assert list(choose(net).weights) == ["first.weight", "between.weight"]
    assert list(choose(net, include=["second"]).weights) == ["first.weight"]
    assert choose(net, exclude=["second.weight"]).left_out == {"first.weight": "exclude=second.weight"}


def test_frozen_and_empty_weights_are_left_out() -> None:
    net = Net()
    net.stem.weight.requires_grad_(False)
    with pytest.warns(UserWarning, match="zero-element"):
        net.head = nn.Linear(0, 2)
    choice = choose(net)
    assert list(choice.weights) == ALL[1:3]
    assert choice.left_out == {"stem.weight": "frozen", "words.weight": "Embedding", "head.weight": "empty"}


def test_lazy_modules_must_have_run() -> None:
    net = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="0.weight is not initialized yet: run the model once on one batch first"):
        choose(net)
    net(torch.zeros(2, 5))
    assert [tuple(w.shape) for w in choose(net).weights.values()] == [(3, 5), (2, 3)]


@pytest.mark.parametrize(
    ("include", "chosen"),
    [
        (["stem.weight"], ["stem.weight"]),  # a parameter
        (["stem"], ["stem.weight"]),  # its module
        (["block.*"], ["block.0.weight", "block.2.weight"]),  # a glob
        (["*.weight"], ALL),  # takes the default kind alone where it matches any
        (["*"], ALL),
        ([nn.Conv2d], ["stem.weight"]),
        ([nn.Sequential], ["block.0.weight", "block.2.weight"]),  # all inside it
        ([nn.Linear, "stem"], ALL),
        (["*.bias"], ["stem.bias", "norm.bias", "block.0.bias", "block.2.bias", "head.bias"]),
        ([nn.BatchNorm2d], ["norm.weight", "norm.bias"]),
        ([nn.Embedding, "head"], ["words.weight", "head.weight"]),
        (["head", "stem"], ["stem.weight", "head.weight"]),  # in the model's order
        ("head", ["head.weight"]),  # one name
    ],
)
def test_include(include: list[str | type[nn.Module]], chosen: list[str]) -> None:
    choice = choose(Net(), include=include)
    assert list(choice.weights) == chosen
    for name in set(ALL) - set(chosen):
        assert choice.left_out[name] == "not in include"


@pytest.mark.parametrize(
    ("exclude", "left_out"),
    [
        (["head.*"], {"head.weight": "exclude=head.*"}),
        (["head"], {"head.weight": "exclude=head"}),
        (["block.?"], {"block.0.weight": "exclude=block.?", "block.2.weight": "exclude=block.?"}),
        ([nn.Sequential], {"block.0.weight": "exclude=Sequential", "block.2.weight": "exclude=Sequential"}),
        ([nn.Conv2d], {"stem.weight": "exclude=Conv2d"}),
        (["*.bias", nn.Embedding], {"words.weight": "exclude=Embedding"}),
        ("stem", {"stem.weight": "exclude=stem"}),
    ],
)
def test_exclude(exclude: list[str | type[nn.Module]], left_out: dict[str, str]) -> None:
    choice = choose(Net(), exclude=exclude)
    assert list(choice.weights) == [name for name in ALL if name not in left_out]
    assert choice.left_out == {"words.weight": "Embedding", **left_out}


def test_include_takes_the_matrix_of_a_layer_of_ones_own_and_not_its_bias() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.zeros(2, 3))
            self.bias = nn.Parameter(torch.zeros(2))

    net = nn.Sequential(nn.Linear(4, 3), Own())
    assert list(choose(net).weights) == ["0.weight"]
    assert choose(net).left_out == {"1.matrix": "Own"}
    assert list(choose(net, include=[Own]).weights) == ["1.matrix"]
    assert list(choose(net, include=[nn.Linear, "1"]).weights) == ["0.weight", "1.matrix"]
    assert list(choose(net, include=["1.bias"]).weights) == ["1.bias"]


def test_exclude_wins_over_include() -> None:
    choice = choose(Net(), include=[nn.Linear], exclude=["head"])
    assert list(choice.weights) == ALL[1:3]
    assert choice.left_out["head.weight"] == "exclude=head"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"include": ["haed.weight"]}, "include: 'haed.weight' matches no parameter; did you mean 'head.weight'"),
        ({"exclude": ["steem"]}, "exclude: 'steem' matches no parameter; did you mean 'stem'"),
        ({"exclude": ["block"]}, r"exclude: 'block' matches no parameter; did you mean 'block.\*', all inside it\?"),
        ({"exclude": ["zzz"]}, "exclude: 'zzz' matches no parameter$"),
        ({"exclude": [nn.LSTM]}, "exclude: LSTM matches no parameter$"),
        ({"include": [nn.ReLU]}, "include: ReLU matches no parameter$"),
        ({"exclude": [3]}, "exclude: 3 is neither a name, a glob nor a type of module"),
        ({"include": [torch.Tensor]}, "include: <class 'torch.Tensor'> is neither a name"),
        ({"exclude": [nn.Linear(2, 2)]}, r"exclude: Linear\(.*\) is neither a name"),
        ({"include": []}, r"Net has no weight to prune: stem.weight \(not in include\), words.weight \(Embedding\)"),
        ({"exclude": ["*"]}, r"Net has no weight to prune: stem.weight \(exclude=\*\)"),
    ],
)
def test_what_is_wrong_is_named(arguments: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(Net(), **arguments)


def test_a_model_without_matrices() -> None:
    with pytest.raises(ValueError, match="BatchNorm1d has no weight to prune: it has no matrices"):
        choose(nn.BatchNorm1d(3))


# A scope's own sparsities.


def test_own_sparsities_go_by_the_first_glob_that_matches() -> None:
    assert own_sparsities({"block.2": 0.5, "block.*": 0.8}, ALL) == [None, 0.8, 0.5, None]
    assert own_sparsities({"block.*": 0.8, "block.2": 0.5}, ALL) == [None, 0.8, 0.8, None]
    assert own_sparsities({"*": 0.9}, ALL) == [0.9] * 4
    assert own_sparsities({"head.weight": 0.0, "stem": 1.0}, ALL) == [1.0, None, None, 0.0]
    assert own_sparsities({}, ALL) == [None] * 4


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ({"heads": 0.5}, "scope: 'heads' matches none of the pruned weights; did you mean 'head'"),
        ({"block": 0.5}, r"scope: 'block' matches none of the pruned weights; did you mean 'block.\*', all inside it"),
        ({"head": 1.5}, "scope: the sparsity of 'head' is 1.5; it must be from 0 to 1"),
        ({"head": -0.1}, "scope: the sparsity of 'head' is -0.1; it must be from 0 to 1"),
        ({"head": float("nan")}, "scope: the sparsity of 'head' is nan; it must be from 0 to 1"),
        ({"words": 0.5}, "scope: 'words' matches none of the pruned weights"),
    ],
)
def test_own_sparsities_that_are_wrong(scope: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        own_sparsities(scope, ALL)
