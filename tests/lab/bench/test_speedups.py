from __future__ import annotations

from typing import Any

from sparsecycle.lab.bench.speedups import speedups


def entrant(name: str, values: str, milliseconds: float, network: str, error: float) -> dict[str, Any]:
    over = {
        "fp32": {
            "name": "openvino",
            "ratio": 8.0 / milliseconds,
            "quartiles": [7.5 / milliseconds, 9.0 / milliseconds],
        },
        "int8": {"name": "onnxruntime", "ratio": 2.0 / milliseconds, "quartiles": [0.0, 250.0]},
    }
    words = {"name": name, "values": values, "network": network}
    return {**words, "milliseconds": milliseconds, "over": over, "error": error}


def test_the_table_has_a_row_an_entrant_and_says_who_is_missing() -> None:
    entrants = [
        entrant("openvino", "fp32", 8.0, "dense", 0.0),
        entrant("onnxruntime", "int8", 2.0, "dense", 0.0213),
        entrant("sparsecycle", "fp32", 0.5, "98.5 %", 1.6e-6),
    ]
    found = {"entrants": entrants, "left out": {"deepsparse fp32, dense": "deepsparse is not installed"}}
    assert speedups(found, 4).splitlines() == [
        "|                  | network | ms an image |     × openvino fp32 | × onnxruntime int8 | error |",
        "| ---------------- | ------: | ----------: | ------------------: | -----------------: | ----: |",
        "| openvino fp32    |   dense |        2.00 |   1.0 (0.94 to 1.1) |  0.25 (0.0 to 250) |       |",
        "| onnxruntime int8 |   dense |       0.500 |    4.0 (3.8 to 4.5) |   1.0 (0.0 to 250) | 2e-02 |",
        "| sparsecycle fp32 |  98.5 % |       0.125 | 16.0 (15.0 to 18.0) |   4.0 (0.0 to 250) | 2e-06 |",
        "",
        "Left out: deepsparse fp32, dense: deepsparse is not installed.",
    ]


def test_nobody_is_an_empty_table() -> None:
    assert speedups({"entrants": [], "left out": {}}, 1).splitlines()[0].startswith("|     | network | ms an image")
