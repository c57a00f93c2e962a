from pathlib import Path
from typing import Any

import pytest

from sparsecycle.lab.experiment import Experiment


def test_the_digest_stays_the_same_from_release_to_release(tmp_path: Path) -> None:
    """A change here makes every stored run a stranger: raise store.FORMAT on purpose or not at all."""
    assert Experiment().folder(tmp_path).digest[:8] == "a0759878"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "progresive"}, "method='progresive' is not known.*did you mean 'progressive'"),
        ({"scope": "gobal"}, "did you mean 'global'"),
        ({"update": "batch"}, "allowed are epoch, step"),
        ({"sparsity": 90}, "sparsity=90; allowed is a share"),
        ({"seed": -1}, "seed=-1"),
        ({"end": 1.5}, "end=1.5; allowed is a share of the run"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Experiment(**settings)
