import torch
from torch.nn import functional as F

from sparsecycle.lab.models import build


def test_lenet_300_100_by_hand():
    model = build("lenet-300-100", (1, 8, 8), 10)
    assert model.fc1.weight.shape == (300, 64)
    images = torch.rand(3, 1, 8, 8)
    x = (images.reshape(3, 64) @ model.fc1.weight.T + model.fc1.bias).relu()
    x = (x @ model.fc2.weight.T + model.fc2.bias).relu()
    torch.testing.assert_close(model(images), x @ model.fc3.weight.T + model.fc3.bias)


def test_lenet_5_caffe_has_no_relu_after_its_convolutions():
    model = build("lenet-5-caffe", (1, 28, 28), 10)
    assert model.fc1.weight.shape == (500, 800)
    images = torch.rand(3, 1, 28, 28)
    x = F.max_pool2d(F.conv2d(images, model.conv1.weight), 2)
    x = F.max_pool2d(F.conv2d(x, model.conv2.weight), 2)
    assert (x < 0).any()
    x = (x.reshape(3, 800) @ model.fc1.weight.T).relu()
    torch.testing.assert_close(model(images), x @ model.fc2.weight.T)


def test_lenet_5_caffe_at_its_smallest():
    assert build("lenet-5-caffe", (3, 16, 17), 2).fc1.weight.shape == (500, 50)
