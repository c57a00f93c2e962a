import pytest
import torch
from torch import nn

from sparsecycle.lab.models import build
from sparsecycle.lab.models.mobilenet import InvertedResidual


def test_weights_follow_from_the_table_of_stages():
    with torch.device("meta"):
        model = build("mobilenet-v2", (3, 32, 32), 100)
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_369_380
    depthwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [m.in_channels for m in depthwise] == [
        *(32, 96, 144, 144, 192, 192, 192, 384, 384, 384, 384, 576, 576, 576, 960, 960, 960)
    ]
    assert all(m.groups == m.in_channels == m.out_channels for m in depthwise)
    assert sum(m.stride == (2, 2) for m in depthwise) == 3


def test_a_32_pixel_image_ends_as_five():
    model = build("mobilenet-v2", (3, 32, 32), 10).eval()
    with torch.inference_mode():
        assert model.features[:-2](torch.rand(1, 3, 32, 32)).shape == (1, 1280, 5, 5)


@pytest.mark.parametrize(("outputs", "stride", "passes"), [(8, 1, True), (8, 2, False), (12, 1, False)])
def test_a_block_has_a_shortcut_where_shapes_agree(outputs, stride, passes):
    block = InvertedResidual(8, outputs, stride, 6).eval()
    x = torch.rand(2, 8, 6, 6)
    with torch.no_grad():
        residual = block.residual(x)
        torch.testing.assert_close(block(x), residual + x if passes else residual)
