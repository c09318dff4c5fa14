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
from alpaca_jax.formats import native
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.model import in_memory
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.rundir import write_yaml
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
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in settings["samples"]["prompts"]))
    answers = {"prompts": str(tmp_path / "asked.jsonl"), "max_tokens": 8, "slots": 2}
    scores = run(parse(Config, settings | {"answers": answers}))
    assert [set(each["answers"]) for each in scores["answers"]["samples"]] == [{"baseline", "model"}] * 2
    for sample, answered in zip(scores["samples"], scores["answers"]["samples"], strict=True):
        assert (sample["before"], sample["after"]) == (answered["answers"]["baseline"], answered["answers"]["model"])
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
        run(parse(Config, settings | {"data": {"heldout": 0}, "samples": {"prompts": []}}))
    with pytest.raises(UserError, match=r"no training run is there; give dir=RUN.* or model\.source"):
        run(parse(Config, settings | {"model": {}}))


def test_a_dir_that_does_not_exist_is_refused_and_not_made(settings, tmp_path):
    with pytest.raises(UserError, match=r"dir=.*/tpyo: there is no such folder; give dir=RUN"):
        run(parse(Config, settings | {"dir": str(tmp_path / "tpyo"), "model": {}}))
    assert not (tmp_path / "tpyo").exists()


def test_more_held_out_than_there_are_is_said(settings):
    with pytest.raises(UserError, match="there are 10 records"):
        run(parse(Config, settings | {"data": settings["data"] | {"heldout": 10}}))


@pytest.fixture
def trained(settings, models, tmp_path):
    """The settings of an evaluation of a run that held 4 of ten records out, by `dir` alone."""
    folder = tmp_path / "run"
    its_tokenizer = Tokenizer.load(models / "tokenizer")
    params = jax.device_get(jax.jit(lambda key: llama.init(TINY, key))(jax.random.key(1)))
    native.export(folder / "train", in_memory(TINY, its_tokenizer, params))
    write_yaml(
        folder / "train" / "config.yaml", {"dir": str(folder), "data": settings["data"] | {"max_length": 40}, "model": {"source": None}}
    )
    return {
        "dir": str(folder),
        "model": {},
        "data": {"cache": settings["data"]["cache"]},
        "batch": settings["batch"] | {"sequence_length": 16},
        "samples": {"prompts": []},
    }


def test_dir_gives_model_records_template_and_split(settings, trained, tmp_path, capsys):
    scores = run(parse(Config, trained))
    assert scores["model"] == str(tmp_path / "run" / "train") and scores["format"] == "Orbax checkpoint of step 0"
    assert (scores["data"]["template"], scores["data"]["heldout"], scores["data"]["trained"]["after"]) == ("plain", 4, 0)
    expected = run(
        parse(
            Config,
            settings
            | {
                "baseline": None,
                "samples": {"prompts": []},
                "dir": str(tmp_path / "other"),
                "data": settings["data"] | {"records": str(tmp_path / "run")},
            },
        )
    )
    ours, theirs = (dict(found["heldout"]["after"]) for found in (scores, expected))
    assert ours.pop("stderr") == pytest.approx(theirs.pop("stderr"), rel=1e-5)  # of sums over rows of other lengths
    assert ours == theirs
    assert (
        f"model {tmp_path / 'run' / 'train'}; 4 held-out records of {tmp_path / 'run' / 'records'}; template plain"
        in capsys.readouterr().err
    )


def test_prompts_are_looked_for_among_the_records_that_the_run_was_trained_on(trained, tmp_path):
    folder = tmp_path / "run"
    (tmp_path / "asked.txt").write_text("".join(f"Say {number} bold twice bold!\n" for number in range(10)))
    scores = run(parse(Config, trained | {"parts": ["contamination"], "answers": {"prompts": str(tmp_path / "asked.txt")}}))
    assert scores["contamination"]["records"] == 6 == scores["contamination"]["sets"]["asked"]["equal"]
    assert scores["contamination"]["notes"] == [f"records that {folder} was trained on ({folder / 'records'})"]
    (folder / "records" / records.FILE).unlink()
    gone = run(parse(Config, trained | {"parts": ["contamination"], "answers": {"prompts": str(tmp_path / "asked.txt")}}))
    assert gone["contamination"]["records"] == 0 and "can't be read" in gone["contamination"]["notes"][0]


def test_what_is_given_overrules_the_run(trained):
    scores = run(parse(Config, trained | {"data": trained["data"] | {"template": "alpaca", "heldout": 2, "max_length": 256}}))
    assert (scores["data"]["template"], scores["heldout"]["after"]["examples"]) == ("alpaca", 2)


def test_records_that_the_run_was_trained_on_are_refused(trained, tmp_path, capsys):
    """Two more than it held out; in another file, by their texts; from the folder of the run or of its conversion."""
    said = r"run was trained on 2 of these 6 held-out records: .*It held 4 records out; .*data.allow_trained=true"
    with pytest.raises(UserError, match=said):
        run(parse(Config, trained | {"data": trained["data"] | {"heldout": 6}}))
    assert not (tmp_path / "run" / "evaluate").exists()
    copied = tmp_path / "copied.jsonl"
    again = [records.Record(f"Say {number} [bold]twice[/bold].", output=f"{number} {number}", id=f"new {number}") for number in range(11)]
    records.write(copied, again)
    elsewhere = {"dir": str(tmp_path / "out"), "model": {"source": str(tmp_path / "run")}}
    data = trained["data"] | {"records": str(copied), "heldout": 10}
    with pytest.raises(UserError, match=r"trained on [56] of these 10"):
        run(parse(Config, trained | elsewhere | {"data": data}))
    allowed = run(parse(Config, trained | elsewhere | {"data": data | {"allow_trained": True}}))
    assert allowed["data"]["trained"]["after"] in (5, 6)
    shown = capsys.readouterr()
    assert "was trained on" in shown.err and "after was trained on" in shown.out


def test_a_baseline_is_checked_too(settings, trained, tmp_path):
    data = {"records": str(tmp_path / "run"), "heldout": 9, "template": "plain", "cache": settings["data"]["cache"]}
    changed = {"model": settings["model"], "baseline": str(tmp_path / "run" / "train"), "data": data}
    with pytest.raises(UserError, match=r"run was trained on 5 of these 9"):
        run(parse(Config, settings | changed))


def test_a_part_alone_leaves_the_others_as_they_are(settings, tmp_path, capsys):
    both = run(parse(Config, settings))
    again = run(parse(Config, settings | {"parts": ["samples"]}))
    assert again["heldout"] == both["heldout"] and again["data"] == both["data"]
    assert again["samples"] == both["samples"]
    assert "Held-out response loss" not in capsys.readouterr().out.split("Count.")[-1]
    page = (tmp_path / "run" / "evaluate" / "report.html").read_text()
    assert "Held-out loss" in page and "Samples" in page


def test_scores_of_another_model_are_replaced(settings, capsys):
    run(parse(Config, settings))
    other = run(parse(Config, settings | {"model": {"source": settings["baseline"]}, "parts": ["samples"]}))
    assert other["heldout"] is None
    assert "they are replaced" in capsys.readouterr().err


def test_a_part_without_settings_is_named(settings):
    with pytest.raises(
        UserError, match=r"parts=\['nothing'\]: there are no settings for nothing; those that have some are heldout, samples"
    ):
        run(parse(Config, settings | {"parts": ["nothing"]}))
