import torch

from sparsecycle.lab.models import build


def test_logits_are_one_affine_map_of_the_pixels():
    model = build("linear", (2, 3, 4), 5)
    images = torch.rand(6, 2, 3, 4)
    expected = images.reshape(6, 24) @ model[1].weight.T + model[1].bias
    torch.testing.assert_close(model(images), expected)
