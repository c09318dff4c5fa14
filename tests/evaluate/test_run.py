"""Two models scored the same way: what is written, what is shown, and what is said when there is nothing to score."""

import json

import jax
import numpy as np
import pytest

from alpaca_jax import records
from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.run import run
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.model import in_memory
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.tokenizer import Tokenizer
from tools.prove.tiny import write_tokenizer

TINY = Architecture(vocab_size=257, hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two folders with random weights."""
    folder = tmp_path_factory.mktemp("models")
    write_tokenizer(folder / "tokenizer", ["</s>"], eos_token="</s>")
    its_tokenizer = Tokenizer.load(folder / "tokenizer")
    init = jax.jit(lambda key: llama.init(TINY, key))
    for seed in (0, 1):
        params = jax.device_get(init(jax.random.key(seed)))
        huggingface_export.export(folder / f"model{seed}", in_memory(TINY, its_tokenizer, params))
    return folder


@pytest.fixture
def settings(tmp_path, models):
    """Ten records, of which four are held out, and the models."""
    made = [records.Record(f"Say {number} [bold]twice[/bold].", output=f"{number} {number}") for number in range(10)]
    records.write(tmp_path / "run" / "records" / records.FILE, made)
    return {
        "dir": str(tmp_path / "run"),
        "model": {"source": str(models / "model1")},
        "baseline": str(models / "model0"),
        "data": {"heldout": 4, "template": "plain", "cache": str(tmp_path / "cache")},
        "batch": {"examples": 2, "sequence_length": 64},
        "samples": {"prompts": ["Say [bold]hello[/bold].", "Count."], "max_tokens": 8},
    }


def test_before_and_after_are_written_and_shown(settings, tmp_path, capsys):
    scores = run(parse(Config, settings))
    assert json.loads((tmp_path / "run" / "evaluate" / "scores.json").read_text()) == scores
    heldout = scores["heldout"]
    assert heldout["fall"] == heldout["before"]["loss"] - heldout["after"]["loss"]
    assert heldout["after"]["loss"] == pytest.approx(np.log(257), rel=0.2)  # random weights know nothing
    assert heldout["before"]["examples"] == heldout["after"]["examples"] == 4
    assert heldout["before"]["tokens"] == heldout["after"]["tokens"] == 4 * 4  # "N N" and EOS
    assert heldout["comparable"]
    assert [sample["prompt"] for sample in scores["samples"]] == ["Say [bold]hello[/bold].", "Count."]
    assert scores["samples"][0]["before"] != scores["samples"][0]["after"]
    shown = capsys.readouterr().out
    assert "Say [bold]hello[/bold]." in shown
    assert f"by {abs(heldout['fall']):.4f} nats" in shown


def test_same_model_twice_has_the_same_score(settings):
    scores = run(parse(Config, settings | {"baseline": settings["model"]["source"]}))
    assert scores["heldout"]["fall"] == 0
    assert all(sample["before"] == sample["after"] for sample in scores["samples"])


def test_model_alone_needs_no_baseline_and_no_samples(settings):
    scores = run(parse(Config, settings | {"baseline": None, "samples": {"prompts": []}}))
    assert scores["heldout"]["before"] is None
    assert scores["heldout"]["fall"] is None
    assert scores["samples"] == []


def test_nothing_to_score_is_said(settings):
    with pytest.raises(UserError, match=r"data\.heldout=0 and samples\.prompts"):
        parse(Config, settings | {"data": {"heldout": 0}, "samples": {"prompts": []}})
    with pytest.raises(UserError, match=r"model\.source"):
        parse(Config, settings | {"model": {}})


def test_more_held_out_than_there_are_is_said(settings):
    with pytest.raises(UserError, match="there are 10 records"):
        run(parse(Config, settings | {"data": settings["data"] | {"heldout": 10}}))
