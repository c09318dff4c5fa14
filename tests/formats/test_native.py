"""A training folder whose architecture.json is none that a run writes."""

import json
from pathlib import Path
from typing import Any

import pytest

from alpaca_jax.config import to_mapping
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": None}, "has no key `architecture` with an object"),
        ({"architecture": [1, 2]}, "has no key `architecture` with an object"),
        ({"architecture": {"vocab_size": 96}}, "hidden_size"),
        ({"eos_ids": "2"}, "eos_ids is 2, and should be a list of ids"),
        ({"eos_ids": [2, -1]}, "should be a list of ids"),
        ({"eos_ids": [2, 96]}, "eos_ids has 96, beyond the vocab_size of 96"),
        ({"source": 3}, "source is 3, and should be a text"),
        ({"base": [1]}, "base is"),
    ],
)
def test_an_architecture_that_no_run_writes(change: dict[str, Any], message: str, tiny_architecture: Any, tmp_path: Path) -> None:
    file = tmp_path / "train" / "model" / "architecture.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"architecture": to_mapping(tiny_architecture), "eos_ids": [2], "source": None} | change))
    with pytest.raises(UserError, match=message) as caught:
        pretrained.open(tmp_path)
    assert str(file) in str(caught.value)


def test_an_older_architecture_lacks_newer_switches(tiny_architecture: Any, tmp_path: Path) -> None:
    file = tmp_path / "train" / "model" / "architecture.json"
    file.parent.mkdir(parents=True)
    older = {key: value for key, value in to_mapping(tiny_architecture).items() if key != "mlp_bias"}
    file.write_text(json.dumps({"architecture": older, "eos_ids": [2], "source": None}))
    with pytest.raises(UserError, match="holds no tokenizer"):  # it comes this far
        pretrained.open(tmp_path)


@pytest.mark.parametrize("content", ["[]", "3", "[" * 5000, '{"architecture": "\\ud800"}'])
def test_what_is_no_architecture(content: str, tmp_path: Path) -> None:
    file = tmp_path / "train" / "model" / "architecture.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(UserError, match=r"architecture\.json"):
        pretrained.open(tmp_path)
