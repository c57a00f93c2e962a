import pytest

from sparsecycle.lab.models import MODELS, build
from sparsecycle.lab.models.shapes import check

# The least height and width of each network: what its poolings and strides need to leave a pixel.
SMALLEST = {
    "linear": 1,
    "lenet-300-100": 1,
    "lenet-5-caffe": 16,
    "conv-2": 2,
    "conv-4": 4,
    "conv-6": 8,
    "conv3": 8,
    "vgg-like": 32,
    "vgg-like-snip": 32,
    "vgg-16": 16,
    "vgg-19": 16,
    "vgg-19-qureshi": 32,
    "resnet-18": 8,
    "resnet-20": 4,
    "resnet-32": 4,
    "resnet-50": 32,
    "resnet-56": 4,
    "resnet-20-a": 4,
    "resnet-32-a": 4,
    "resnet-56-a": 4,
    "mobilenet-v2": 8,
}


def test_every_model_has_its_limit_here():
    assert set(SMALLEST) == set(MODELS)


@pytest.mark.parametrize(("name", "smallest"), [(n, s) for n, s in SMALLEST.items() if s > 1])
@pytest.mark.parametrize("side", [0, 1])
def test_images_that_are_too_small_are_refused_by_name(name, smallest, side):
    size = [smallest, smallest]
    size[side] -= 1
    shape = (3, *size)
    with pytest.raises(ValueError, match=f"model '{name}': shape is .*at least {smallest} pixels") as error:
        build(name, shape, 10)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("shape", [(), (3, 32), (1, 3, 32, 32), (0, 8, 8), (1, 8, -8), (1, 8.0, 8)])
def test_a_shape_is_three_positive_integers(shape):
    with pytest.raises(ValueError, match=r"needs \(channels, height, width\)"):
        check("linear", shape, 10)


@pytest.mark.parametrize("name", ["linear", "conv-2", "resnet-20", "vgg-19"])
@pytest.mark.parametrize("classes", [0, -1, 2.5])
def test_classes_are_a_positive_integer(name, classes):
    with pytest.raises(ValueError, match=f"model '{name}': classes is {classes}"):
        build(name, (3, 32, 32), classes)


def test_a_good_shape_comes_back():
    assert check("linear", (1, 8, 9), 2) == (1, 8, 9)
