from __future__ import annotations

from pathlib import Path

import pytest

from sparsecycle.lab.catalogue import NAMES as METHODS
from sparsecycle.lab.comparison import plan
from sparsecycle.lab.data import NAMES
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.models import build
from sparsecycle.lab.options import DEFAULTS, Compare, Options, Train, UsageError, parse

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def train(*words: str) -> Train:
    return parse(Train, words, "sparsecycle train")


def compare(*words: str) -> Compare:
    return parse(Compare, words, "sparsecycle compare")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "options.yaml"


def test_every_data_set_has_defaults_that_fit_it() -> None:
    assert set(DEFAULTS) == set(NAMES)
    shapes = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28)}
    for name, (model, _, _) in DEFAULTS.items():
        build(model, shapes.get(name, (3, 32, 32)), 10)


def test_the_data_set_gives_the_defaults_and_flags_override_them() -> None:
    options = train("--data", "cifar10", "--lr", "0.2", "--no-flip")
    model, pruning, recipe = DEFAULTS["cifar10"]
    assert (options.data, options.model, options.pruning) == ("cifar10", model, pruning)
    assert (options.recipe.lr, options.recipe.augment.flip) == (0.2, False)
    assert (options.recipe.augment.crop, options.recipe.epochs) == (4, recipe.epochs)


def test_flags_override_the_file_which_overrides_the_data_set(file: Path) -> None:
    file.write_text(
        "data: mnist\nmethods: [dense, agp]\nsparsities: [0.5]\nseeds: [7, 8]\nepochs: 3\nlr: 1e-3\n"
        "flip: true\nnesterov: false\nclip: null\nmilestones: [0.3, 0.6]\nchannels-last: auto\nend: 0.25\n"
    )
    options = compare("--config", str(file), "--epochs", "4", "--seeds", "9")
    assert (options.config, options.data, options.methods) == (file, "mnist", ("dense", "agp"))
    assert (options.sparsities, options.seeds) == ((0.5,), (9,))
    recipe = options.recipe
    assert (recipe.epochs, recipe.lr, recipe.clip, recipe.milestones) == (4, 0.001, None, (0.3, 0.6))
    assert recipe.augment.flip
    assert options.pruning.end == 0.25
    assert recipe.batch_size == DEFAULTS["mnist"][2].batch_size


def test_a_flag_may_ask_for_another_data_set_than_the_file(file: Path) -> None:
    file.write_text("data: cifar10\nepochs: 3\n")
    options = train("--config", str(file), "--data", "digits")
    assert (options.data, options.model, options.recipe.epochs) == ("digits", "lenet-300-100", 3)
    assert options.recipe.batch_size == DEFAULTS["digits"][2].batch_size


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epocs: 3", r"options.yaml: 'epocs' is not an option of train; did you mean 'epochs'\?"),
        ("sparsities: [0.9]", r"'sparsities' is not an option of train; did you mean 'sparsity'\?"),
        ("data: mnits", r"data 'mnits' is not known; did you mean 'mnist'\?"),
        ("epochs: 0", "options.yaml: the value of an option is not allowed"),
        ("epochs: many", "options.yaml: the value of an option is not allowed"),
        ("recipe: {epochs: 3}", "'recipe' is not an option"),
        ("lr: {a: 1}", "'lr' holds a mapping"),
        ("- 3", "holds a list"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(file: Path, content: str, message: str) -> None:
    file.write_text(content)
    with pytest.raises(UsageError, match=message):
        train("--config", str(file))


def test_a_missing_file_is_named(file: Path) -> None:
    with pytest.raises(UsageError, match=r"options.yaml: No such file"):
        train("--config", str(file))


def test_an_empty_file_changes_nothing(file: Path) -> None:
    file.write_text("# nothing\n")
    assert train("--config", str(file)).recipe == train().recipe


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "cifar"), r"data 'cifar' is not known; did you mean 'cifar10"),
        (("--model", "resnet20"), r"model 'resnet20' is not known; did you mean 'resnet-20'\?"),
        (("--method", "progresive"), r"method 'progresive' is not known; did you mean 'progressive'\?"),
        (("--device", "cuda:99"), "cuda:99"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(*words)


def test_a_default_time_is_dropped_for_a_method_that_does_not_take_it_and_a_given_one_is_not() -> None:
    assert train("--method", "one-shot").experiment(["one-shot"]).end is None
    assert train().experiment(["progressive"]).end == DEFAULTS["digits"][1].end
    assert train("--end", "0.3").experiment(["one-shot"]).end == 0.3


def test_weights_to_begin_with_and_their_normalisation(file: Path) -> None:
    file.write_text("init: a.pt\nkeep-zeros: true\nmean: [0.4, 0.5, 0.6]\n")
    options = compare("--config", str(file), "--std", ".1", ".2", ".3", "--no-keep-zeros")
    it = options.experiment(options.methods)
    assert (it.init, it.keep_zeros, it.mean, it.std) == ("a.pt", False, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    assert train("--init", "a.pt", "--keep-zeros").experiment(["progressive"]).keep_zeros


def test_all_methods(file: Path) -> None:
    assert compare("--methods", "all").methods == METHODS
    file.write_text("methods: all\n")
    assert compare("--config", str(file)).methods == METHODS
    assert compare("--config", str(file), "--methods", "dense", "snip").methods == ("dense", "snip")
    assert set(compare().methods) < set(METHODS), "not all where nothing is said"


PRUNING = {"scope": "erk", "recovery": "stored", "floor": 0, "exclude": ("fc3*", "fc2"), "update": "step"}
RECIPE = {"lr_cycles": 4, "distillation": 0.5, "temperature": 2.0}


def test_the_pruning_and_the_teacher_from_flags() -> None:
    flags = "--scope erk --recovery stored --floor 0 --exclude fc3* fc2 --update step --lr-cycles 4 --distillation .5"
    options = train(*flags.split(), "--temperature", "2", "--method", "one-cycle", "--arguments", "beta=6", "alpha=12")
    assert {name: getattr(options.pruning, name) for name in PRUNING} == PRUNING
    assert {name: getattr(options.recipe, name) for name in RECIPE} == RECIPE
    assert options.pruning.arguments == ("beta=6", "alpha=12")
    (experiment,) = plan(options.experiment(["one-cycle"]), ["one-cycle"], [options.sparsity], [0])
    assert experiment.arguments == ("beta=6", "alpha=12")
    assert (experiment.scope, experiment.recovery, experiment.recipe.distillation) == ("erk", "stored", 0.5)


def test_the_pruning_and_the_teacher_from_a_file(file: Path) -> None:
    file.write_text(
        "method: lottery-ticket\nscope: uniform\nfloor: 0\nexclude: [fc3*]\nlr-cycles: 4\ndistillation: 0.5\n"
        "arguments:\n  - 'rate={fc1: 0.1, \"*\": 0.2}'\n  - rewind=learning rate\n  - rewind-to=5\n"
    )
    options = train("--config", str(file), "--temperature", "2")
    assert {name: getattr(options.recipe, name) for name in RECIPE} == RECIPE
    (experiment,) = plan(options.experiment([options.method]), [options.method], [0.9], [0])
    assert experiment.words() == {
        "scope": "uniform",
        "exclude": ("fc3*",),
        "floor": 0,
        "rate": {"fc1": 0.1, "*": 0.2},
        "rewind": "learning rate",
        "rewind_to": 5,
    }


def test_a_ticket_from_flags_and_from_a_file(file: Path) -> None:
    file.write_text("method: ticket\nticket: found/ticket.safetensors\n")
    for options in (train("--method", "ticket", "--ticket", "found/ticket.safetensors"), train("--config", str(file))):
        (experiment,) = plan(options.experiment([options.method]), [options.method], [options.sparsity], [3])
        assert (experiment.method, experiment.ticket, experiment.sparsity) == (
            "ticket",
            "found/ticket.safetensors",
            0.0,
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "dense", "tickt"), "method 'tickt' is not known"),
        (("--methods", "lottery"), r"did you mean 'lottery-ticket'\?"),
        (("--methods", "ticket"), "method 'ticket' is not known"),
        (("--methods", "all", "dense"), "method 'all' is not known"),
    ],
)
def test_an_unknown_method_among_several_is_named(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare(*words)


@pytest.mark.parametrize(
    "words",
    [("--recovery", "sotred"), ("--scope", "layers"), ("--lr-cycles", "0"), ("--distillation", "1.5"), ("--flor", "0")],
)
def test_a_value_that_is_not_allowed_is_a_usage_error(
    words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        train(*words)
    assert stop.value.code == 2
    near = {"sotred": "stored", "layers": "uniform", "--flor": "--floor", "--lr-cycles": "lr_cycles=0"}
    err = capsys.readouterr().err
    assert near.get(words[1], near.get(words[0], words[1])) in err


def load(path: Path) -> tuple[Options, Experiment]:
    words = ("--config", str(path))
    options: Train | Compare
    if "\nmethods:" in path.read_text():
        options = compare(*words)
        return options, options.experiment(options.methods)
    options = train(*words)
    return options, options.experiment([options.method])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_options_and_say_their_own_command(path: Path) -> None:
    options, experiment = load(path)
    assert experiment.recipe == options.recipe
    command = type(options).__name__.lower()
    assert f"sparsecycle {command} --config recipes/{path.name}" in path.read_text()


@pytest.mark.parametrize(
    ("name", "epochs", "pruning_epochs", "lr", "sparsity"),
    [
        ("qureshi-lenet-300-100-78.9", 160, 60, 0.1, 0.789),
        ("qureshi-lenet-300-100-98", 200, 80, 0.05, 0.98),
        ("qureshi-resnet-18", 200, 200, 0.1, 0.729),
        ("qureshi-vgg-like-97", 350, 150, 0.1, 0.97),
        ("qureshi-vgg-19-98", 400, 300, 0.1, 0.98),
    ],
)
def test_the_papers_constants(name: str, epochs: int, pruning_epochs: int, lr: float, sparsity: float) -> None:
    (path,) = [path for path in RECIPES if path.stem == name]
    options, experiment = load(path)
    assert isinstance(options, Train)
    recipe = options.recipe
    assert (recipe.epochs, recipe.lr, recipe.momentum, recipe.weight_decay) == (epochs, lr, 0.9, 5e-4)
    assert (recipe.lr_schedule, recipe.lr_update, recipe.batch_size) == ("cosine", "epoch", 128)
    assert (options.sparsity, options.method, experiment.update) == (sparsity, "progressive", "epoch")
    assert options.seeds[0] == 42
    # The last mask comes with the epoch that the paper's pruning ends with, not one sooner or later.
    assert experiment.end is not None
    assert (pruning_epochs - 1) / epochs < experiment.end <= pruning_epochs / epochs
    assert recipe.validation == (0.0 if "vgg-19" in name else 0.11)
    assert recipe.label_smoothing == (0.0 if "lenet" in name else 0.1)
