from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecycle.files.broken import Broken
from sparsecycle.files.contents import DTYPES, About, Contents, Dense, Matrix
from sparsecycle.files.entropy import compress
from sparsecycle.files.values import Form

FORM = Form(least=0, span=0, signs="plus", packed=False)
MATRIX = Matrix(
    name="w",
    shape=(2, 3),
    dtype="float32",
    stored="float32",
    kept=6,
    block=(1, 1),
    alive=(),
    channels_last=False,
    code="all",
    k=0,
    values=FORM,
    scales=None,
    lengths=(0, 0),
    digest="0" * 16,
)
DENSE = Dense(dtype="int64", shapes={"n": (), "m": (0, 4)}, values=FORM, lengths=(0, 0), digest="1" * 16)
CONTENTS = Contents("fp32", (MATRIX,), (DENSE,), ("n", "w", "v", "m"), {"v": "w"})


def unpack(text: bytes | str) -> Contents:
    data = text.encode() if isinstance(text, str) else text
    return Contents.unpack(np.frombuffer(compress(data, quick=True), np.uint8))


def refused(table: Any, message: str) -> None:
    with pytest.raises(Broken, match=message):
        unpack(json.dumps(table))


def with_matrix(**changes: Any) -> Any:
    return json.loads(json.dumps(asdict(CONTENTS))) | {"matrices": [json.loads(json.dumps(asdict(MATRIX))) | changes]}


def with_dense(**changes: Any) -> Any:
    return json.loads(json.dumps(asdict(CONTENTS))) | {"dense": [json.loads(json.dumps(asdict(DENSE))) | changes]}


forms = st.builds(
    Form,
    least=st.integers(0, 2**64 - 1),
    span=st.integers(0, 64),
    signs=st.sampled_from(["plus", "minus", "both"]),
    packed=st.booleans(),
)
lengths = st.lists(st.integers(0, 2**40), max_size=6).map(tuple)
printable = st.text(max_size=5).filter(str.isprintable)
digests = st.text("0123456789abcdef", min_size=16, max_size=16)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def tables(draw: st.DrawFn) -> Contents:
    names = draw(st.lists(printable.filter(len), unique=True, max_size=9))
    matrices, shapes, ties = [], {}, {}
    for i, name in enumerate(names):
        shape = tuple(draw(st.lists(st.integers(1, 99), min_size=2, max_size=4)))
        if i and i % 3 == 0:
            ties[name] = names[i - 1]
        elif i % 3 == 1:
            shapes[name] = shape[:-2]
        else:
            whole = draw(st.booleans())
            floating = [name for name, dtype in DTYPES.items() if dtype.is_floating_point]
            matrix = Matrix(
                name,
                shape,
                draw(st.sampled_from(floating)),
                "int8" if whole else draw(st.sampled_from(floating)),
                draw(st.integers(0, math.prod(shape))),
                tuple(draw(st.lists(st.integers(0, 9), max_size=4))),
                tuple(draw(st.lists(st.booleans(), max_size=2))),
                draw(st.booleans()),
                draw(st.text(max_size=4)),
                draw(st.integers(0, 99)),
                draw(forms),
                draw(forms) if whole else None,
                draw(lengths),
                draw(digests),
            )
            matrices.append(matrix)
    dtypes = draw(st.sampled_from(list(DTYPES)))
    dense = (Dense(dtypes, shapes, draw(forms), draw(lengths), draw(digests)),) if shapes else ()
    about = About(
        draw(st.none() | printable),
        draw(st.lists(plain, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=3), plain, max_size=3)),
        draw(st.none() | st.dictionaries(st.text(max_size=3), plain, max_size=3)),
        draw(st.none() | st.lists(printable, max_size=3).map(tuple)),
        draw(st.none() | st.lists(st.integers(0, 300), max_size=3).map(tuple)),
        draw(st.none() | st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3).map(tuple)),
        None,
    )
    return Contents(draw(st.text(max_size=4)), tuple(matrices), dense, tuple(draw(st.permutations(names))), ties, about)


@given(tables())
def test_what_is_packed_is_unpacked(contents: Contents) -> None:
    assert Contents.unpack(np.frombuffer(contents.pack(), np.uint8)) == contents


def test_what_is_known_of_the_tensors() -> None:
    assert CONTENTS.shapes == {"n": (), "w": (2, 3), "v": (2, 3), "m": (0, 4)}
    assert list(CONTENTS.shapes) == list(CONTENTS.dtypes) == ["n", "w", "v", "m"]
    assert CONTENTS.dtypes == {"n": torch.int64, "w": torch.float32, "v": torch.float32, "m": torch.int64}
    assert CONTENTS.dense_bytes == 24 + 8
    assert [stored.name for stored in CONTENTS.stored] == ["w", "sparsecycle/int64"]
    assert replace(MATRIX, lengths=(1, 20, 300, 4000)).parts == {"positions": 21, "scales": 0, "values": 4300}
    whole = replace(MATRIX, lengths=(1, 20, 300, 4000, 50000), stored="int8", scales=FORM)
    assert whole.parts == {"positions": 1, "scales": 320, "values": 54000}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [-1, 3]}, r"w: its shape is \(-1, 3\)"),
        ({"shape": [-2, -3]}, r"w: its shape is \(-2, -3\)"),
        ({"shape": [1 << 40, 1 << 40]}, "w: its shape is"),
        ({"shape": [2**64, 3]}, "18446744073709551616... is no number of 64 bits"),
        ({"shape": [10**4000, 3]}, "1000000000000000000000000000000000000000... is no number of 64 bits"),
        ({"shape": [1] * 33}, "w: it has 33 dimensions; allowed are 32"),
        ({"shape": []}, r"w: its shape is \(\), which is no matrix's"),
        ({"shape": [6]}, r"w: its shape is \(6,\), which is no matrix's"),
        ({"shape": [0, 3], "kept": 0}, r"w: its shape is \(0, 3\), which is no matrix's"),
        ({"shape": 6}, "'6' is no list"),
        ({"shape": [2, 3.0]}, "'3.0' is no int"),
        ({"shape": [2, True]}, "'True' is no int"),
        ({"shape": None}, "'None' is no list"),
        ({"dtype": "complex64"}, "w: its type is 'complex64'; allowed are float64, float32, bfloat16, "),
        ({"dtype": "int64"}, "w: its type is 'int64', which is no matrix's"),
        ({"dtype": 3}, "'3' is no str"),
        ({"stored": "float31"}, "w: values are stored as 'float31'"),
        ({"stored": "bool"}, "w: values are stored as 'bool'"),
        ({"stored": "int8"}, "w: scales are there if values are int8 alone"),
        ({"scales": asdict(FORM)}, "w: scales are there if values are int8 alone"),
        ({"kept": 7}, "w: 7 of 6 weights are kept"),
        ({"kept": -1}, "w: -1 of 6 weights are kept"),
        ({"lengths": [1, -1]}, "w: a part has -1 bytes"),
        ({"values": None}, "'None' is no dict"),
        ({"values": {"least": 0}}, "packed, signs, span is too much or too little"),
        ({"values": asdict(FORM) | {"packed": 1}}, "'1' is no bool"),
        ({"more": 1}, "more is too much or too little"),
        ({"alive": [1]}, "'1' is no bool"),
        ({"name": "sparsecycle/int64"}, "two parts have one name"),
        ({"name": "n"}, "a tensor is there twice"),
        ({"name": "x"}, "the names are not those of the tensors"),
    ],
    ids=range(31),
)
def test_a_matrix_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    refused(with_matrix(**changes), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "nothing"}, "sparsecycle/nothing: its type is 'nothing'; allowed are float64, "),
        ({"dtype": "nothing", "shapes": {}}, "sparsecycle/nothing: its type is 'nothing'"),
        ({"shapes": {"n": [], "m": [-1]}}, r"sparsecycle/int64: m: its shape is \(-1,\)"),
        ({"shapes": {"n": [], "m": [0, 1 << 40, 1 << 40]}}, "m: its shape is"),
        ({"shapes": {"n": [], "m": [1] * 40}}, "m: it has 40 dimensions"),
        ({"shapes": [1]}, "'.1.' is no dict"),
        ({"shapes": {"n": []}}, "the names are not those of the tensors"),
        ({"lengths": [-8]}, "a part has -8 bytes"),
    ],
    ids=range(8),
)
def test_dense_tensors_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    refused(with_dense(**changes), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["w", "v", "n"]}, "the names are not those of the tensors"),
        ({"names": ["w", "v", "n", "m", "m"]}, "the names are not those of the tensors"),
        ({"ties": {"v": "u"}}, "a tie is to a tensor that is not there"),
        ({"ties": {"v": "v"}}, "a tie is to a tensor that is not there"),
        ({"ties": {"v": "x", "x": "v"}, "names": ["w", "v", "n", "m", "x"]}, "a tie is to a tensor that is not there"),
        ({"ties": {"v": "w", "w": "w"}}, "the names are not those of the tensors"),
        ({"ties": {"v": None}}, "'None' is no str"),
        ({"dense": [asdict(DENSE)] * 2}, "two parts have one name"),
        ({"dense": {}}, "'{}' is no list"),
        ({"values": 1}, "'1' is no str"),
        ({"about": None}, "'None' is no dict"),
        ({"about": asdict(About()) | {"factory": 3}}, "'3' is no str"),
        ({"about": asdict(About()) | {"arguments": 3}}, "'3' is no list"),
        ({"about": asdict(About()) | {"classes": [1]}}, "'1' is no str"),
        ({"about": asdict(About()) | {"mean": ["0"]}}, "'0' is no float"),
        ({"about": asdict(About()) | {"mean": [10**400]}}, "is no number of 64 bits"),
        ({"about": asdict(About()) | {"report": []}}, r"'\[\]' is no dict"),
    ],
    ids=range(17),
)
def test_a_table_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    refused(asdict(CONTENTS) | changes, message)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b"\xff" * 20,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        json.dumps(asdict(CONTENTS) | {"about": asdict(About()) | {"arguments": []}})
        .replace('"arguments": []', f'"arguments": {"[" * 800}{"]" * 800}')
        .encode(),
    ],
    ids=range(10),
)
def test_a_text_that_is_no_table(text: bytes) -> None:
    with pytest.raises(Broken, match="the table of contents cannot be read"):
        unpack(text)


def test_a_table_of_many_small_things_is_read() -> None:
    many = About(arguments=((),) * 100_000)
    found = Contents.unpack(np.frombuffer(replace(CONTENTS, about=many).pack(), np.uint8))
    assert found.about == many


def test_a_table_has_its_limit() -> None:
    with pytest.raises(Broken, match="the table of contents has more than 4194304 bytes"):
        unpack(bytes(1 << 25))
    with pytest.raises(Broken, match="cannot be unpacked"):
        Contents.unpack(np.frombuffer(b"{}", np.uint8))


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (About(arguments=(object(),)), "must be plain JSON values: Object of type object is not JSON serializable"),
        (About(mean=(math.nan,)), "must be plain JSON values: Out of range float values are not JSON compliant"),
        (About(report={"text": "x" * (1 << 22)}), "the table of contents takes .* bytes; allowed are 4194304"),
    ],
    ids=range(3),
)
def test_what_could_not_be_read_is_not_written(about: About, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONTENTS, about=about).pack()
    with pytest.raises(ValueError, match="it has 40 dimensions; allowed are 32"):
        replace(CONTENTS, matrices=(replace(MATRIX, shape=(1,) * 40),)).pack()


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\ud800", "a\u202eb"], ids=range(4))
def test_texts_that_a_terminal_takes_for_commands(text: str) -> None:
    for about in (About(factory=text), About(classes=("a", text))):
        with pytest.raises(Broken, match="is no name that can be printed"):
            replace(CONTENTS, about=about).pack()
    table = json.loads(json.dumps(asdict(CONTENTS)))
    refused(table | {"names": ["n", text, "m", "w"], "ties": {text: "w"}}, "is no name that can be printed")
