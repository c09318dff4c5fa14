"""The shipped experiments: what the published recipes come to, and the twin of the pre-training on a small real text."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training import losses

from alpaca_jax import __main__ as cli
from alpaca_jax.data import builder
from alpaca_jax.data.pipeline import make_batches
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.trainer import optimizer as optimizers

WEIGHTS = {
    "commoncrawl": 0.67, "c4": 0.15, "github": 0.045, "wikipedia": 0.045, "books": 0.045, "arxiv": 0.025, "stackexchange": 0.02
}  # fmt: skip


def composed(*overrides):
    command = cli._parse(["train", *overrides])
    return cli._config(command, cli._compose(command))


@pytest.fixture(scope="module")
def alpaca(data_dir, tmp_path_factory):
    """The examples of the published records, by the experiment's own settings."""
    config = composed("experiment=alpaca_7b", f"data.cache={tmp_path_factory.mktemp('cache')}")
    return builder.load_examples(config.data, data_dir / "alpaca_data.json", Tokenizer.load(data_dir / "llama_tokenizer.model"))


@pytest.mark.prove
@pytest.mark.parametrize(
    ("name", "epochs", "steps", "rows"), [("alpaca_7b", 3, 1218, 128), ("alpaca_7b_packed", 3, 1218, 8), ("alpaca_13b", 5, 2030, 8)]
)
def test_the_published_recipes_take_the_published_steps(alpaca, name, epochs, steps, rows):
    config = composed(f"experiment={name}")
    batches = make_batches(alpaca.examples["train"], config.batch, config.seed, config.epochs)
    assert (config.epochs, config.epochs * batches.steps_per_epoch, batches.rows) == (epochs, steps, rows)
    assert batches.left_out == len(alpaca.examples["train"]) - 406 * 128
    if rows == 8:
        assert batches.statistics(0)["utilisation_min"] >= 0.99
    rate = optimizers.learning_rate(config.optimizer, steps)
    warmup = int(np.ceil(0.03 * steps))
    assert float(rate(warmup)) == pytest.approx(2e-5 if "7b" in name else 1e-5) and float(rate(steps)) == pytest.approx(0, abs=1e-12)


@pytest.mark.prove
def test_the_padded_and_the_packed_recipe_take_the_same_examples_a_step(alpaca):
    padded, packed = (
        make_batches(alpaca.examples["train"], composed(f"experiment={name}").batch, 0) for name in ("alpaca_7b", "alpaca_7b_packed")
    )
    for index in (0, 17, 405):
        assert padded.indices(index).tolist() == packed.indices(index).tolist()


def test_the_mixture_of_seven_sources_is_the_papers():
    sources = composed("experiment=llama_7b_pretrain").data.sources
    assert {name: source.weight for name, source in sources.items()} == WEIGHTS


@pytest.mark.prove
def test_the_twin_of_the_pre_training_learns_a_real_text(files, tmp_path):
    """Seven parts of this project's licence as the seven sources."""
    paragraphs = [part for part in (Path(__file__).parents[2] / "LICENSE").read_text().split("\n\n") if part.strip()]
    arguments = []
    for number, name in enumerate(WEIGHTS):
        part = tmp_path / f"{name}.jsonl"
        part.write_text("".join(json.dumps({"text": text}) + "\n" for text in paragraphs[number :: len(WEIGHTS)]))
        arguments.append(f"data.sources.{name}.records={part}")
    arguments += [f"dir={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}", f"model.tokenizer={files / 'tokenizer'}", "steps=12"]
    command = [sys.executable, "-W", "ignore", "-m", "alpaca_jax", "train", "experiment=pretrain_small", "optimizer.learning_rate=1e-2"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    values = [loss for _, loss in losses(tmp_path / "run")]
    assert len(values) == 12 and values[-1] < values[0] - 1
    mixture = json.loads((tmp_path / "run" / "train" / "summary.json").read_text())["mixture"]
    assert {row["source"]: row["share"] for row in mixture} == pytest.approx(WEIGHTS, abs=0.02)
