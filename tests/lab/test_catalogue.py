from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from sparsecycle.lab.catalogue import DENSE, NAMES, SEARCHES, TICKET, TIMES, arguments, own, parameters, takes
from sparsecycle.methods import METHODS

OWN = [(method, name) for method in NAMES for name in own(method)]


def is_plain_number(text: str) -> bool:
    """Whether it is a number to Python, and text to YAML, which writes it without quotes."""
    try:
        float(text)
    except ValueError:
        return False
    return yaml.safe_dump(text).startswith(text)


TEXT = st.text(st.characters(codec="ascii")).filter(lambda text: not is_plain_number(text))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=4,
)


def test_every_method_has_one_name() -> None:
    assert len(NAMES) == len(set(NAMES)) == 1 + len(METHODS) + len(SEARCHES)
    assert set(NAMES) == {DENSE, *METHODS, *SEARCHES}
    assert NAMES[0] == DENSE
    assert TICKET not in NAMES


def test_parameters_are_those_of_the_methods_function() -> None:
    assert parameters(DENSE) == parameters(TICKET) == {}
    for method in (*METHODS, *SEARCHES):
        assert {"model", "sparsity"} <= set(parameters(method))
    assert parameters("agp")["start"].default == 0.2
    assert parameters("lottery-ticket")["rate"].default == 0.2
    assert {method for method in NAMES if "at" in parameters(method)} == {"one-shot"}
    assert {method for method in NAMES if "batches" in parameters(method)} == {"snip", "grasp"}


def test_what_is_a_methods_own() -> None:
    assert own(DENSE) == own(TICKET) == own("progressive") == own("gsm") == []
    assert own("dpf") == ["update_every"]
    assert own("one-cycle") == ["alpha", "beta"]
    assert own("set") == own("rigl") == ["fraction", "until", "update_every"]
    assert own("snip") == ["biases"]
    assert own("grasp") == ["temperature"]
    assert own("synflow") == ["rounds", "path"]
    assert own("lottery-ticket") == ["rate", "rewind", "rewind_to"]
    assert own("colt") == ["partitions", "rate", "rewind_to", "by"]
    assert not any(name in TIMES for _, name in OWN), "they are options"


def test_scope_and_recovery_go_to_whoever_takes_them() -> None:
    without = {(method, word) for method in NAMES for word in ("scope", "recovery") if not takes(method, word)}
    assert without == {
        (DENSE, "scope"),
        (DENSE, "recovery"),
        ("lottery-ticket", "recovery"),
        ("colt", "scope"),
        ("colt", "recovery"),
    }


@pytest.mark.parametrize(
    ("method", "words", "expected"),
    [
        ("one-cycle", [], {}),
        ("one-cycle", ["beta=6"], {"beta": 6}),
        ("one-cycle", ["beta=6.5", "alpha=1"], {"beta": 6.5, "alpha": 1}),
        ("acdc", ["switches=[0.1,0.5,0.9]"], {"switches": [0.1, 0.5, 0.9]}),
        ("lottery-ticket", ['rate={fc3: 0.1, "*": 0.2}'], {"rate": {"fc3": 0.1, "*": 0.2}}),
        ("lottery-ticket", ["rewind=learning rate", "rewind-to=5"], {"rewind": "learning rate", "rewind_to": 5}),
        ("colt", ["by=random", "partitions=5"], {"by": "random", "partitions": 5}),
        ("snip", ["biases=true"], {"biases": True}),
        ("synflow", ["path=linear", "rounds=3"], {"path": "linear", "rounds": 3}),
        ("grasp", ["temperature=1.0e+2"], {"temperature": 100.0}),
        ("dsd", ["sparse_from=0.25"], {"sparse_from": 0.25}),
    ],
)
def test_words_are_arguments_with_values_as_in_yaml(method: str, words: list[str], expected: dict[str, Any]) -> None:
    found = arguments(method, words)
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in expected.items()}


@example(("snip", "biases"), "0")  # in quotes it is text
@given(st.sampled_from(OWN), VALUES)
def test_whatever_yaml_can_say_comes_through(argument: tuple[str, str], value: Any) -> None:
    method, name = argument
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    assert arguments(method, [f"{name}={text}"]) == {name: value}
    assert arguments(method, [f"{name.replace('_', '-')}={text}"]) == {name: value}


@pytest.mark.parametrize(
    ("method", "word", "message"),
    [
        ("one-cycle", "beta", "'beta' must be of the form name=value, such as beta=6"),
        ("one-cycle", "", "'' must be of the form name=value"),
        ("one-cycle", "betta=6", r"'one-cycle' has no 'betta', it has alpha, beta; did you mean 'beta'\?"),
        ("lottery-ticket", "rewnid=weights", r"it has rate, rewind, rewind_to; did you mean 'rewind'\?"),
        ("dense", "beta=6", "'dense' has no 'beta', it has none"),
        ("progressive", "end=0.5", "'progressive' has no 'end', it has none"),
        ("snip", "batches=1", "'snip' has no 'batches', it has biases"),
        ("random", "seed=1", "'random' has no 'seed', it has none"),
        ("acdc", "switches=[0.1", r"the value in 'switches=\[0.1' cannot be read: while parsing"),
    ],
)
def test_a_wrong_word_is_named_with_what_there_is(method: str, word: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^arguments: .*{message}"):
        arguments(method, [word])
