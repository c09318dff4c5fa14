"""SmolLM2 by our class and by the harness's own class for transformers, on the same tasks."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from alpaca_jax.formats import pretrained
from alpaca_jax.formats.huggingface import export
from alpaca_jax.rundir import RunDir
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.suites import harness, results, running, tasks
from alpaca_jax.scores.suites.config import SuiteConfig
from alpaca_jax.sharding import Layout
from alpaca_jax.terminal import Console

SCIENCE = [
    ("Which of these does a plant need to make its own food?", ["moonlight", "sunlight", "sand", "wind"], "B"),
    ("What do bees collect from flowers?", ["nectar", "rocks", "milk", "paper"], "A"),
    ("Water turns into ice when it is", ["heated", "stirred", "cooled below 0 °C", "coloured"], "C"),
    ("Which planet is closest to the sun?", ["Neptune", "Earth", "Mars", "Mercury"], "D"),
]
SUMS = [
    ("Tom has 3 apples and buys 4 more. How many has he?", "3 + 4 = 7\n#### 7"),
    ("A hen lays 2 eggs a day. How many in 5 days?", "#### 10"),
]


@pytest.fixture
def data(tmp_path):
    """Questions in the columns of the hub's ARC-Easy and GSM8K."""

    def write(config, split, rows):
        (tmp_path / config).mkdir(exist_ok=True)
        (tmp_path / config / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    science = [{"question": asked, "choices": {"text": texts, "label": list("ABCD")}, "answerKey": key} for asked, texts, key in SCIENCE]
    sums = [{"question": asked, "answer": answer} for asked, answer in SUMS]
    for split in ("train", "test"):
        write("ARC-Easy", split, science)
        write("main", split, sums)
    return str(tmp_path)


def numbers(folder, result, task):
    """The log-likelihoods of each question's choices, or its text, as the samples file has them."""
    file = results.samples_file(folder / result.file, task)
    samples = [sample for sample in results.lines(file) if sample["filter"] in ("none", "strict-match")]
    return [[response[0] for response in sample["resps"]] for sample in samples]


@pytest.mark.prove
@pytest.mark.filterwarnings("ignore")  # of torch and transformers
@pytest.mark.parametrize("chat", [False, True])
def test_smollm2_scores_as_the_harness_scores_it_with_transformers(smollm2, data, tmp_path, monkeypatch, chat):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    opened = pretrained.open(str(smollm2))
    template = "chat" if chat else "plain"
    with jax.numpy_dtype_promotion("standard"):
        loaded = Loaded(
            "smollm2", opened.format, opened.tokenizer, template, opened.architecture, Layout.of_one_device(), "float32", "float32",
            tuple(opened.eos_ids), lambda: pretrained.load_params(opened),
        )  # fmt: skip
        suite = SuiteConfig(tasks=("arc_easy", "gsm8k"), data=data, num_fewshot=2, max_tokens=24, chat=chat)
        ours = running.run("s", suite, loaded, RunDir(tmp_path / "run"), Console(stderr=True))
    export.export(tmp_path / "hf", opened)
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(
        pretrained=str(tmp_path / "hf"), dtype="float32", device="cpu", batch_size=2, max_length=loaded.architecture.max_positions
    )
    chosen = tasks.load("s", suite)
    chosen["tasks"]["gsm8k"].config.generation_kwargs["max_gen_toks"] = 24
    raw = harness.evaluated(theirs, chosen, dataclasses.replace(suite, slots=2))
    reference = results.write(RunDir(tmp_path / "run"), ("theirs",), raw, {"key": {}, "facts": {}})
    assert [(row.task, row.metric, row.value) for row in ours.rows] == [(row.task, row.metric, row.value) for row in reference.rows]
    choices = [numbers(tmp_path, result, "arc_easy") for result in (ours, reference)]
    found, expected = ([[float(logprob) for logprob, _ in question] for question in own] for own in choices)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert [[greedy for _, greedy in question] for question in choices[0]] == [
        [greedy for _, greedy in question] for question in choices[1]
    ]
    assert numbers(tmp_path, ours, "gsm8k") == numbers(tmp_path, reference, "gsm8k")
    assert numbers(tmp_path, ours, "gsm8k")
