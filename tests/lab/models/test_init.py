import sys
import types

import pytest
import torch
from torch import nn

from sparsecycle.files.contents import About
from sparsecycle.files.factory import make
from sparsecycle.lab.models import MODELS, build, factory_of

# (c, h, w), prunable weights (of convolutions and linear layers), trainable parameters; ten classes.
COUNTS = {
    "linear": ((1, 28, 28), 7_840, 7_850),
    "lenet-300-100": ((1, 28, 28), 266_200, 266_610),
    "lenet-5-caffe": ((1, 28, 28), 430_500, 431_080),
    "conv-2": ((3, 32, 32), 4_300_992, 4_301_642),
    "conv-4": ((3, 32, 32), 2_425_024, 2_425_930),
    "conv-6": ((3, 32, 32), 2_261_184, 2_262_602),
    "conv3": ((3, 32, 32), 372_928, 374_282),
    "vgg-like": ((3, 32, 32), 14_977_728, 14_990_922),
    "vgg-like-snip": ((3, 32, 32), 14_977_728, 14_991_946),
    "vgg-16": ((3, 32, 32), 14_715_584, 14_724_042),
    "vgg-19": ((3, 32, 32), 20_024_000, 20_035_018),
    "vgg-19-qureshi": ((3, 32, 32), 20_548_288, 20_567_882),
    "resnet-18": ((3, 32, 32), 11_164_352, 11_173_962),
    "resnet-20": ((3, 32, 32), 270_896, 272_474),
    "resnet-32": ((3, 32, 32), 464_432, 466_906),
    "resnet-50": ((3, 224, 224), 23_475_392, 23_528_522),
    "resnet-56": ((3, 32, 32), 851_504, 855_770),
    "resnet-20-a": ((3, 32, 32), 268_336, 269_722),
    "resnet-32-a": ((3, 32, 32), 461_872, 464_154),
    "resnet-56-a": ((3, 32, 32), 848_944, 853_018),
    "mobilenet-v2": ((3, 32, 32), 2_202_816, 2_254_090),
}
SMALL_ENOUGH_FOR_DIGITS = sorted(
    name for name in COUNTS if not any(part in name for part in ("vgg", "caffe", "resnet-50"))
)


def test_every_model_is_counted_here():
    assert set(COUNTS) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_as_many_as_in_the_papers(name):
    shape, prunable, parameters = COUNTS[name]
    with torch.device("meta"):
        model = build(name, shape, 10)
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert sum(layer.weight.numel() for layer in layers) == prunable
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", SMALL_ENOUGH_FOR_DIGITS)
def test_grey_digits_give_logits_and_every_weight_a_gradient(name):
    model = build(name, (1, 8, 8), 10)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    assert logits.shape == (4, 10)
    logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", ["lenet-5-caffe", "conv-4", "vgg-19", "resnet-20", "resnet-20-a", "mobilenet-v2"])
def test_channels_classes_and_oblong_images_are_free(name):
    with torch.device("meta"):
        model = build(name, (2, 34, 49), 7).eval()
        assert model(torch.empty(3, 2, 34, 49)).shape == (3, 7)


@pytest.mark.parametrize("name", ["conv-4", "conv3", "vgg-16", "resnet-18", "resnet-20-a", "mobilenet-v2"])
def test_channels_last_gives_the_same_logits(name):
    torch.manual_seed(0)
    model = build(name, (3, 32, 32), 10).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        expected = model(images)
        model.to(memory_format=torch.channels_last)
        got = model(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_one_seed_gives_one_network():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build("resnet-20", (3, 32, 32), 10).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    ("name", "nearest"), [("resnet20", "resnet-20"), ("lenet300", "lenet-300-100"), ("vgg19", "vgg-19")]
)
def test_an_unknown_name_is_told_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"model '{name}' is not known; did you mean '{nearest}'"):
        build(name, (3, 32, 32), 10)


def test_a_name_like_no_other_is_told_all():
    with pytest.raises(ValueError, match="model 'zzz' is not known. Known are linear, lenet-300-100, ") as error:
        build("zzz", (3, 32, 32), 10)
    assert "did you mean" not in str(error.value)


class TestFactory:
    @pytest.fixture(autouse=True)
    def module(self, monkeypatch, tmp_path):
        """A module in the current directory, importable by no other test."""
        source = (
            "from torch import nn\n"
            "def network(shape, classes):\n"
            "    c, h, w = shape\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, classes))\n"
            "def nothing(shape, classes):\n"
            "    return None\n"
            "constant = 3\n"
        )
        (tmp_path / "own_networks.py").write_text(source)
        (tmp_path / "broken_networks.py").write_text("import no_such_package_anywhere\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        yield
        sys.modules.pop("own_networks", None)

    def test_it_is_called_with_shape_and_classes(self):
        model = build("own_networks:network", (2, 3, 4), 5)
        assert model[1].weight.shape == (5, 24)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("own_network:network", "there is no module 'own_network'"),
            ("own_networks.parts:network", r"there is no module 'own_networks\.parts'"),
            ("own_networks:netwrk", "own_networks has no 'netwrk'; did you mean 'network'"),
            ("own_networks:constant", "is of type int; it needs a function"),
            ("own_networks:nothing", "gave NoneType; it needs a torch.nn.Module"),
            ("own networks:network", "written package.module:factory"),
            ("own_networks:", "written package.module:factory"),
            (":network", "written package.module:factory"),
        ],
    )
    def test_what_is_wrong_with_it_is_named(self, name, message):
        with pytest.raises(ValueError, match=message) as error:
            build(name, (1, 8, 8), 10)
        assert repr(name) in str(error.value)

    def test_an_import_that_fails_inside_it_is_not_hidden(self):
        with pytest.raises(ModuleNotFoundError, match="no_such_package_anywhere"):
            build("broken_networks:network", (1, 8, 8), 10)


class TestTimm:
    @pytest.fixture
    def asked(self, monkeypatch):
        """A stand-in for timm; what ``create_model`` was asked for."""
        asked = {}

        def create_model(model_name, **options):
            asked.update(options, name=model_name)
            return nn.Identity()

        timm = types.ModuleType("timm")
        timm.is_model = lambda name: name == "resnet18"
        timm.list_models = lambda: ["resnet18", "vit_tiny"]
        timm.create_model = create_model
        monkeypatch.setitem(sys.modules, "timm", timm)
        return asked

    def test_a_network_is_made_untrained_for_these_images(self, asked):
        build("timm:resnet18", (1, 32, 32), 7)
        assert asked == {"name": "resnet18", "pretrained": False, "in_chans": 1, "num_classes": 7}

    def test_a_packed_file_can_name_it(self, asked):
        factory, arguments = factory_of("timm:resnet18", (1, 32, 32), 7)
        assert factory == "timm:create_model"
        assert isinstance(make(About(factory, arguments), [factory], lambda network: None), nn.Identity)
        assert asked == {"name": "resnet18", "in_chans": 1, "num_classes": 7}
        assert factory_of("a.b:c", (1, 8, 8), 3) == ("a.b:c", ((1, 8, 8), 3))

    @pytest.mark.usefixtures("asked")
    def test_an_unknown_name_is_told_the_nearest(self):
        with pytest.raises(ValueError, match="timm has no 'resnet81'; did you mean 'resnet18'"):
            build("timm:resnet81", (3, 32, 32), 10)

    def test_without_timm_the_package_is_named(self, monkeypatch):
        def import_module(name):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        monkeypatch.setattr("importlib.import_module", import_module)
        with pytest.raises(ImportError, match="needs the package timm: pip install timm"):
            build("timm:resnet18", (3, 32, 32), 10)
