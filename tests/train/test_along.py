"""Suites and a judge in the middle of a run: their figures in the metrics, and that nothing else changes."""

import dataclasses
import json

import pytest
from training import config, losses

from alpaca_jax import metrics
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.rundir import RunDir
from alpaca_jax.scores import samples
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.sharding import Layout
from alpaca_jax.terminal import Console
from alpaca_jax.train import evaluation, suites
from alpaca_jax.train.run import run

FIGURES = ("score", "choice", "choice_norm", "probability")
SUITE = {"own": {"categories": ["facts"], "limit": 2, "generate": False, "metric": "probability"}}


def test_a_suite_is_scored_along_the_way_and_leaves_the_training_alone(files, tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(evaluation, "beat", heard.append)
    with_suite = {"evaluate_every": 1, "suites": {"basics": SUITE}, "early_stopping": {"metric": "suites/basics/score"}}
    run(config(files, tmp_path / "plain", steps=2))
    run(config(files, tmp_path / "along", steps=2, **with_suite))
    assert losses(tmp_path / "along") == losses(tmp_path / "plain")
    assert heard.count(1) == heard.count(2) > 2  # the watchdog hears of the suite before, after, and on the way
    lines = metrics.read(tmp_path / "along" / "train" / "metrics.jsonl")
    scored = {line["step"]: line for line in lines if "suites/basics/score" in line}
    assert set(scored) == {1, 2}
    assert all(
        {f"suites/basics/{name}" for name in FIGURES} <= line.keys() and 0 < line["suites/basics/score"] < 1 for line in scored.values()
    )
    summary = json.loads((tmp_path / "along" / "train" / "summary.json").read_text())
    assert summary["suites/basics/score"] == scored[2]["suites/basics/score"]
    best = max(scored, key=lambda step: scored[step]["suites/basics/score"])
    assert (summary["best_step"], summary["best_value"]) == (best, scored[best]["suites/basics/score"])
    kept = sorted((tmp_path / "along" / "train" / "suites").glob("*/basics/samples_*.jsonl"))
    assert kept and all(json.loads(line)["target"] for line in kept[0].read_text().splitlines())


@pytest.mark.prove  # half a minute of compiling
def test_along_the_way_a_run_with_an_adapter_answers_and_is_scored_as_its_merged_model(files, tmp_path):
    asked = {"evaluate_every": 2, "samples": {"prompts": ["Say 3."], "max_tokens": 8}, "suites": {"basics": SUITE}}
    changes = {"adapter": {"rank": 4, "dora": True, "dropout": 0.1}, "optimizer": {"learning_rate": 0.1}}
    run(config(files, tmp_path / "base", steps=1))
    model = {"source": str(tmp_path / "base" / "train")}
    summary = run(config(files, tmp_path / "tuned", steps=2, model=model, **asked, **changes))
    [sample] = json.loads((tmp_path / "tuned" / "train" / "samples" / "2.json").read_text())
    merged, settings = pretrained.open(str(tmp_path / "tuned" / "train")), config(files, tmp_path, **asked)
    opened = Loaded(
        source="",
        format="",
        tokenizer=merged.tokenizer,
        template_name=settings.data.template,
        architecture=merged.architecture,
        layout=Layout.of_one_device(),
        dtype="float32",
        compute_dtype="float32",
        eos_ids=merged.eos_ids,
        load=lambda: pretrained.load_params(merged),
    )
    before = pretrained.open(str(tmp_path / "base" / "train"))
    unchanged = dataclasses.replace(opened, load=lambda: pretrained.load_params(before))
    scores = [suites.figures(settings.suites, each, 2, RunDir(tmp_path / str(n)), Console()) for n, each in enumerate((opened, unchanged))]
    assert summary["suites/basics/score"] == pytest.approx(scores[0]["suites/basics/score"], rel=1e-4)
    assert scores[1]["suites/basics/score"] != pytest.approx(scores[0]["suites/basics/score"], rel=1e-2)
    batch = opened.batch(1)
    [answer] = samples.answers(batch, merged.tokenizer, opened.template, ["Say 3."], 8, merged.eos_ids)
    assert sample["answer"] == answer


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"suites": {"basics": SUITE}}, "give evaluate_every=N"),
        ({"evaluate_every": 2, "compare": {"teacher": {"model": "judge"}}}, "give answers.prompts=FILE"),
        (
            {"evaluate_every": 2, "answers": {"prompts": "p.jsonl"}, "compare": {"teacher": {"model": "judge"}}},
            r"against=\['baseline'\].*one set",
        ),
    ],
)
def test_what_can_not_be_measured_is_refused(files, tmp_path, changes, told):
    with pytest.raises(UserError, match=told):
        config(files, tmp_path, **changes)
