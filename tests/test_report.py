from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsecycle.prunable import choose
from sparsecycle.report import LayerReport, Report, multiply_adds, report_on


def small(**changes: Any) -> Report:
    fields: dict[str, Any] = {
        "layers": (LayerReport("conv.weight", (8, 3, 3, 3), 54), LayerReport("head.weight", (10, 2048), 2048)),
        "requested": 0.9,
        "steps": (100, 100),
        "settings": {"sparsity": 0.9, "scope": "global", "total_steps": 100},
        "left_out": {},
    }
    return Report(**{**fields, **changes})


def counted(**changes: Any) -> Report:
    layers = (
        LayerReport("conv.weight", (8, 3, 3, 3), 54, 27_648),
        LayerReport("head.weight", (10, 2048), 2048, 20_480),
    )
    return small(layers=layers, all_multiply_adds=60_000, **changes)


# What is counted.


def test_totals_by_hand() -> None:
    report = small()
    assert [(layer.weights, layer.sparsity) for layer in report.layers] == [(216, 0.75), (20_480, 0.9)]
    assert (report.weights, report.kept) == (20_696, 2_102)
    assert report.achieved == 1 - 2_102 / 20_696
    assert report.kept_multiply_adds is None


def test_multiply_adds_that_are_left_by_hand() -> None:
    # A quarter of the convolution's, a tenth of the head's, and the 11,872 of what is not pruned.
    assert counted().kept_multiply_adds == pytest.approx((27_648 / 4 + 2_048 + 11_872) / 60_000)
    unpruned = LayerReport("w", (2, 5), 10, 10)
    assert small(layers=(unpruned,), all_multiply_adds=10).kept_multiply_adds == 1.0
    assert small(layers=(LayerReport("w", (2, 5), 0, 10),), all_multiply_adds=10).kept_multiply_adds == 0.0


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 16, 1, stride=2))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.norm(self.stem(x))).mean((2, 3)))  # type: ignore[no-any-return]


def count(model: nn.Module, inputs: Any) -> tuple[dict[str, int], int]:
    return multiply_adds(model, inputs, list(choose(model).weights))


@pytest.mark.parametrize("batch", [1, 5])
def test_a_convolutional_net_by_hand(batch: int) -> None:
    by_name, total = count(ConvNet(), torch.zeros(batch, 3, 12, 12))
    by_hand = {
        "stem.weight": 8 * 3 * 9 * 144,
        "block.0.weight": 8 * 9 * 144,  # one input channel each
        "block.2.weight": 16 * 8 * 36,
        "head.weight": 16 * 10,
    }
    assert by_name == {name: batch * n for name, n in by_hand.items()}
    assert total == batch * sum(by_hand.values())


def test_work_of_layers_that_are_not_named_is_in_the_total_alone() -> None:
    by_name, total = multiply_adds(ConvNet(), torch.zeros(1, 3, 12, 12), ["head.weight"])
    assert by_name == {"head.weight": 160}
    assert total == 8 * 27 * 144 + 8 * 9 * 144 + 16 * 8 * 36 + 160


def test_a_model_that_is_one_layer() -> None:
    assert count(nn.Linear(7, 3), torch.zeros(2, 7)) == ({"weight": 42}, 42)
    assert count(nn.ConvTranspose2d(3, 4, 3), torch.zeros(1, 3, 4, 4)) == ({"weight": 3 * 4 * 9 * 16}, 1728)


class Attention(nn.Module):
    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **arguments)
        self.head = nn.Linear(8, 3)
        self.weighed = False

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(x, x[..., : self.attention.kdim], x, need_weights=self.weighed)
        return self.head(y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("weighed", [False, True])
def test_multi_head_attention_by_hand(weighed: bool) -> None:
    # Evaluation would take a fused kernel, which the counter does not see.
    model = Attention()
    model.weighed = weighed
    by_name, total = count(model, torch.zeros(2, 5, 8))
    projections = {"attention.in_proj_weight": 10 * 8 * 24, "attention.out_proj.weight": 10 * 8 * 8}
    assert by_name == {**projections, "head.weight": 10 * 8 * 3}
    scores = 2 * (2 * 2 * 5 * 5 * 4)  # queries by keys, then by values: batch, heads, 5 by 5, 4 channels a head
    assert total == sum(by_name.values()) + scores


def test_attention_with_separate_projections() -> None:
    by_name, total = count(Attention(kdim=6), torch.zeros(2, 5, 8))
    each = {"q_proj_weight": 64, "k_proj_weight": 48, "v_proj_weight": 64, "out_proj.weight": 64}
    assert by_name == {**{f"attention.{n}": 10 * size for n, size in each.items()}, "head.weight": 240}
    assert total == sum(by_name.values()) + 800


def test_a_transformer_layer_by_hand() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    by_name, total = count(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.zeros(2, 5, 8))
    each = {"self_attn.in_proj_weight": 1920, "self_attn.out_proj.weight": 640, "linear1.weight": 1280}
    each["linear2.weight"] = 1280
    assert by_name == {f"layers.{i}.{n}": m for i in range(2) for n, m in each.items()}
    assert total == sum(by_name.values()) + 2 * 800


def test_recurrent_layers_by_hand() -> None:
    steps = torch.zeros(2, 5, 8)
    assert count(nn.LSTM(8, 4, batch_first=True), steps) == (
        {"weight_ih_l0": 10 * 8 * 16, "weight_hh_l0": 10 * 4 * 16},
        10 * 12 * 16,
    )
    assert count(nn.GRU(8, 4, batch_first=True), steps) == (
        {"weight_ih_l0": 10 * 8 * 12, "weight_hh_l0": 10 * 4 * 12},
        10 * 12 * 12,
    )
    assert count(nn.GRUCell(8, 4), torch.zeros(2, 8)) == ({"weight_ih": 2 * 8 * 12, "weight_hh": 2 * 4 * 12}, 288)


def test_a_shared_module_counts_every_call() -> None:
    shared = nn.Linear(4, 4)
    by_name, total = count(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 2)), torch.zeros(3, 4))
    assert by_name == {"0.weight": 2 * 48, "3.weight": 24}
    assert total == 120


def test_a_function_of_the_models_own_belongs_to_the_model() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 6)
            self.matrix = nn.Parameter(torch.zeros(2, 6))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.layer(x), self.matrix)

    assert multiply_adds(Own(), torch.zeros(3, 4), ["layer.weight", "matrix"]) == (
        {"layer.weight": 72, "matrix": 36},
        108,
    )


def test_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.a(x) + self.b(y)  # type: ignore[no-any-return]

    for inputs in ((torch.zeros(1, 4), torch.zeros(1, 3)), [torch.zeros(1, 4), torch.zeros(1, 3)]):
        assert count(Two(), inputs) == ({"a.weight": 8, "b.weight": 6}, 14)


def test_counting_leaves_no_trace() -> None:
    model = ConvNet()
    model.norm.eval()  # a frozen norm among layers in training
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count(model, torch.randn(2, 3, 12, 12))
    assert [module.training for module in (model, model.stem, model.norm)] == [True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    count(nn.LSTM(2, 2), torch.zeros(1, 1, 2))
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mkldnn.enabled
    assert torch.is_grad_enabled()


def test_a_failing_model_is_left_as_it_was() -> None:
    model = ConvNet()
    with pytest.raises(RuntimeError, match="channels"):
        count(model, torch.zeros(1, 4, 12, 12))
    assert model.training
    assert torch.backends.mha.get_fastpath_enabled()


# What is shown.


def test_the_table() -> None:
    text = str(small(left_out={"words.weight": "Embedding", "stem.weight": "exclude=stem"}, notes=("the clock",)))
    assert text == "\n".join(
        [
            "layer        shape    weights   kept  sparsity",
            "──────────────────────────────────────────────",
            "conv.weight  8×3×3×3      216     54    75.00%",
            "head.weight  10×2048   20,480  2,048    90.00%",
            "──────────────────────────────────────────────",
            "all                    20,696  2,102    89.84%",
            "requested 90.0000%, achieved 89.8434% at step 100 of 100",
            "sparsity 0.9, scope global",
            "not pruned: words.weight (Embedding), stem.weight (exclude=stem)",
            "note: the clock",
        ]
    )


def test_the_table_with_multiply_adds() -> None:
    assert str(counted()).splitlines()[:6] == [
        "layer        shape    weights   kept  sparsity  multiply-adds",
        "─────────────────────────────────────────────────────────────",
        "conv.weight  8×3×3×3      216     54    75.00%          46.1%",
        "head.weight  10×2048   20,480  2,048    90.00%          34.1%",
        "─────────────────────────────────────────────────────────────",
        "all                    20,696  2,102    89.84%     34.7% left",
    ]


def test_to_dict_is_plain_data() -> None:
    plain = counted(notes=("a note",), left_out={"words.weight": "Embedding"}).to_dict()
    again = json.loads(json.dumps(plain))
    layer = {"name": "conv.weight", "shape": [8, 3, 3, 3], "kept": 54, "multiply_adds": 27_648}
    assert again.pop("layers")[0] == {**layer, "weights": 216, "sparsity": 0.75}
    assert again == {
        "requested": 0.9,
        "steps": [100, 100],
        "settings": {"sparsity": 0.9, "scope": "global", "total_steps": 100},
        "left_out": {"words.weight": "Embedding"},
        "notes": ["a note"],
        "all_multiply_adds": 60_000,
        "weights": 20_696,
        "kept": 2_102,
        "achieved": 1 - 2_102 / 20_696,
        "kept_multiply_adds": pytest.approx(20_832 / 60_000),
    }


def test_plot_draws_a_bar_a_layer() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = small().plot()
    (ax,) = figure.axes
    assert [bar.get_width() for bar in ax.containers[1]] == pytest.approx([75, 90])
    assert ax.lines[0].get_xdata()[0] == pytest.approx(100 * (1 - 2_102 / 20_696))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["conv.weight", "head.weight"]
    assert [text.get_text() for text in ax.texts] == ["54 of 216", "2,048 of 20,480"]
    assert ax.get_title() == "89.84% sparse: 2,102 of 20,696 weights kept"
    assert ax.get_xlim() == (0, 100)
    assert ax.yaxis_inverted()  # the first layer on top
    figure.canvas.draw()
    pyplot.close(figure)


# Putting it together.


def test_report_on_a_model() -> None:
    model = ConvNet()
    shapes = {name: tuple(weight.shape) for name, weight in choose(model).weights.items()}
    kept = {"stem.weight": 108, "block.0.weight": 72, "block.2.weight": 64, "head.weight": 16}
    arguments: dict[str, Any] = {"requested": 0.5, "steps": (3, 4), "settings": {"scope": "global"}, "left_out": {}}
    bare = report_on(model, shapes, kept, notes=[], **arguments)
    assert [layer.multiply_adds for layer in bare.layers] == [None] * 4
    assert bare.all_multiply_adds is None
    full = report_on(model, shapes, kept, notes=["n"], example_inputs=torch.zeros(1, 3, 12, 12), **arguments)
    assert [layer.name for layer in full.layers] == list(shapes)
    assert [layer.sparsity for layer in full.layers] == [0.5, 0.0, 0.5, 0.9]
    assert full.notes == ("n",)
    assert full.kept_multiply_adds == pytest.approx((15_552 + 10_368 + 2_304 + 16) / (31_104 + 10_368 + 4_608 + 160))
