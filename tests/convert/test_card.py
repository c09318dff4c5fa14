"""The model card: what a run left is told, what isn't known is called unknown, and nothing of this machine stands in it."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import training
import yaml
from bytewise import tokenizer

from alpaca_jax import records
from alpaca_jax.checkpoint import CheckpointConfig, Checkpoints
from alpaca_jax.config import to_mapping
from alpaca_jax.convert import card
from alpaca_jax.errors import UserError
from alpaca_jax.formats import model, native, pretrained, source
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.metrics import MetricsWriter
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.rundir import write_json, write_yaml

SIZES = Architecture(**training.SIZES | {"vocab_size": 263})
TOKENIZER = tokenizer(chat_template="{% for message in messages %}### {{ message['content'] }}\n{% endfor %}")
MANIFEST = {
    "method": "self_instruct",
    "teacher": {"model": "gpt-4o-mini", "source": None, "base_url": "https://user:sk-secret@teacher.example/v1", "endpoint": "chat"},
    "sampling": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 512},
    "seed": 0,
    "records": 90,
    "sha256": "ab" * 32,
    "counts": {"kept": 90, "near_duplicate": 7, "refusal": 3, "cut": 0},
    "requests": 12,
    "prompt_tokens": 12_995,
    "completion_tokens": 18_867,
    "dollars": 1.25,
    "doubtful_dollars": 0.5,
    "prices": {"prompt": 0.15, "completion": 0.6, "source": "the price list | of March"},
    "seconds": 174.4,
    "stopped_by": "count",
    "versions": {},
    "made": "2026-11-23T11:02:29+00:00",
}


def front(text: str) -> dict[str, Any]:
    start, header, _ = text.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(header)


def untrained(named: str) -> Pretrained:
    return model.in_memory(SIZES, TOKENIZER, jax.tree.map(np.asarray, llama.init(SIZES, jax.random.key(0)))).named(named)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with two checkpoints, as `generate`, `train` and `evaluate` leave it."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    write_json(folder / "records" / records.MANIFEST, MANIFEST)
    write_yaml(folder / "records" / "config.yaml", {"decontaminate": [str(folder / "user_oriented_instructions.jsonl")]})
    config = to_mapping(training.config(folder, folder, hardware={"dollars_per_hour": 8.0}, checkpoint={}))
    config["data"] |= {"records": None, "template": "alpaca"}
    native.write(folder / "train" / "model", SIZES, TOKENIZER, source="huggyllama/llama-7b")
    checkpoints = Checkpoints(folder / "train" / "checkpoints", CheckpointConfig(asynchronous=False))
    params = llama.init(SIZES, jax.random.key(0))
    for step in (1, 2):
        meta = {"config": config, "loss": 2.0 - step / 4, "tokens_real": 1000 * step, "seconds": 1800.0 * step}
        checkpoints.save(step, {"params": params}, meta)
    checkpoints.close()
    with MetricsWriter(folder / "train", tensorboard=False) as writer:
        for step in (1, 2):
            writer.write(step, {"loss": 2.0 - step / 4, "heldout_loss": 1.9 - step / 4})
    hardware = {"chip": "A100", "devices": 8, "peak_flops": 3.12e14, "peak_source": "a data sheet"}
    write_json(folder / "train" / "summary.json", {"steps": 2, "epochs": 3.0, "examples": 88, "hardware": hardware})
    heldout = {"before": {"loss": 2.05}, "after": {"loss": 1.74, "examples": 24}}
    write_json(folder / "evaluate" / "scores.json", {"heldout": heldout})
    write_json(folder / "stages" / "generate.json", {"name": "generate", "seconds": 720.0})
    return folder


def opened(run: Path, step: int) -> Pretrained:
    return pretrained.open(run / "train" / "checkpoints" / str(step))


def test_a_run_is_told_with_its_data_its_recipe_and_its_bill(run: Path) -> None:
    text = card.render("runs/mine/hf", opened(run, 2).named("runs/mine"), "bfloat16", "other")
    assert front(text) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "other",
        "base_model": "huggyllama/llama-7b",
        "tags": ["llama", "alpaca-jax"],
    }
    for line in (
        "| dtype | bfloat16 |",
        "| checkpoint | step 2, the last; 3 epochs |",
        "| batch | 4 examples a step, rows of 256, packed |",
        "| learning rate | 0.01, cosine, warm-up 3.0% of the steps |",
        "| loss (nats a target token) | 1.7500 at the first step, 1.5000 at this one |",
        "| held-out loss | 2.0500 before, 1.7400 after, over 24 examples |",
        "| hardware | 8 x A100 |",
        "| teacher | gpt-4o-mini |",
        "| records | 90 kept of 100 |",
        "| dropped | near duplicate 7, refusal 3 |",
        "| decontaminated against | user_oriented_instructions.jsonl |",
        f"| sha256 | `{'ab' * 32}` |",
        "| records by gpt-4o-mini | 0.20 | 1.25 (at most 0.50 more for answers that never arrived); the price list \\| of March |",
        "| training | 1.00 | 8.00, at 8 an hour |",
        "| records and training |  | 9.25 |",
        "- The weights of `huggyllama/llama-7b`: not known here; see its source.",
        "were written by `gpt-4o-mini`: the terms of that model apply to what is trained on its answers",
        "### Give three tips for staying healthy.",
    ):
        assert line in text, line
    assert "secret" not in text and "teacher.example" not in text and str(run.parent) not in text


def test_an_earlier_checkpoint_is_not_told_with_the_figures_of_the_last(run: Path) -> None:
    text = card.render(str(run / "train" / "hf" / "1"), opened(run, 1), "float32", None)
    assert "| checkpoint | step 1 |" in text
    assert "| held-out loss | 1.6500, the last measured while it was trained |" in text
    assert "| training | 0.50 | 4.00, at 8 an hour |" in text
    assert "| hardware |" not in text and "No licence was stated" in text and "license" not in front(text)
    assert 'from_pretrained("mine/train/hf/1")' in text and "written by `alpaca-jax convert` from `mine/train/checkpoints/1`" in text
    assert str(run.parent) not in text


def test_a_model_that_was_not_trained_here_has_no_such_sections() -> None:
    text = card.render("models/smollm2", untrained("smollm2-135m-instruct"), "float32", None)
    assert front(text)["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "- The weights of `smollm2-135m-instruct`: `apache-2.0`." in text
    assert "How it was trained" not in text and "The bill" not in text
    assert set(card.HUB) == set(source.KNOWN)


def test_published_records_are_known_by_their_content(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "data.json"
    file.write_text("[]")
    monkeypatch.setattr(card.histories, "PUBLISHED", {records.sha256([file]): "tatsu-lab/alpaca"})
    history = card.histories.read(opened(run, 1))
    assert history is not None
    config = history.config
    config["data"]["records"] = str(file)
    [data] = card.histories._data(config, run)
    assert data.published == "tatsu-lab/alpaca" and not data.manifest
    monkeypatch.setattr(card.histories, "read", lambda model: dataclasses.replace(history, data=[data]))
    text = card.render("hf", opened(run, 1), "float32", None)
    assert front(text)["datasets"] == ["tatsu-lab/alpaca"]
    assert "`data.json`: cc-by-nc-4.0 (research only)" in text and str(tmp_path) not in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("runs/mine/train", "runs/mine/train"),
        ("/home/me/runs/mine/train/checkpoints/100", "mine/train/checkpoints/100"),
        ("/home/me/runs/mine/train#ema", "mine/train#ema"),
        ("/data/llama-7b", "llama-7b"),
        ("~/llama-7b", "llama-7b"),
        ("org/name", "org/name"),
    ],
)
def test_of_a_path_of_this_machine_only_the_end_is_shown(name: str, shown: str) -> None:
    assert card.bare(name) == shown


def test_every_manifest_of_generate_can_be_told() -> None:
    fields = {field.name for field in dataclasses.fields(records.Manifest)}
    assert set(MANIFEST) <= fields
    assert json.dumps(MANIFEST)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("train/summary.json", '{"steps": 2, "epochs": "three"}'),
        ("train/summary.json", "[]"),
        ("train/metrics.jsonl", "[1]\n"),
        ("records/manifest.json", '{"teacher": 3}'),
        ("evaluate/scores.json", '{"heldout": {"after": [1]}}'),
        ("stages/generate.json", "[" * 5000),
    ],
)
def test_damaged_files_of_a_run_are_named(file: str, content: str, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "mine")
    assert (tmp_path / "mine" / file).is_file()
    (tmp_path / "mine" / file).write_text(content)
    with pytest.raises(
        UserError, match=r"the files of its run .* are not as a run writes them|(summary|generate)\.json|metrics\.jsonl, line 1"
    ):
        card.render("hf", opened(tmp_path / "mine", 2), "bfloat16", None)


def test_a_template_that_refuses_a_question_alone(run: Path) -> None:
    strict = TOKENIZER.with_chat_template("{{ raise_exception('the system speaks first') }}")
    text = card.render("hf", dataclasses.replace(opened(run, 2), tokenizer=strict), "bfloat16", None)
    assert "Give three tips" not in text
