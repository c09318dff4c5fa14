"""A run with an adapter: small checkpoints, a PEFT folder of each, opened everywhere as a whole model, resumed bit for bit."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from training import config, losses

from alpaca_jax import checkpoint, metrics
from alpaca_jax.config import parse
from alpaca_jax.convert import config as convert_config
from alpaca_jax.convert import run as convert
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.model import in_memory
from alpaca_jax.formats.names import weights
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.train.run import run
from tools.prove.tiny import SIZES

STEPS = 4
ADAPTER = {"rank": 4, "alpha": 8, "targets": ["q_proj", "down_proj"], "dropout": 0.1}


@pytest.fixture(scope="module")
def base(files, tmp_path_factory):
    return random_model(files, tmp_path_factory.mktemp("base") / "hf")


def random_model(files, folder, **sizes):
    """A model to start from: a Hugging Face folder of random weights."""
    architecture = Architecture(**SIZES | sizes)
    params = llama.init(architecture, jax.random.key(0))
    huggingface_export.export(folder, in_memory(architecture, Tokenizer.load(files / "tokenizer"), params))
    return folder


def settings(files, folder, base, **changes):
    model = {"source": str(base)}
    return config(
        files, folder, **{"steps": STEPS, "model": model, "adapter": ADAPTER, "checkpoint": {"every_steps": 2, "keep": 9}} | changes
    )


@pytest.fixture(scope="module")
def tuned(files, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    run(settings(files, folder, base))
    return folder


def test_the_checkpoint_holds_the_adapter_alone_and_the_run_opens_as_a_whole_model(base, tuned):
    saved = checkpoint.Saved(tuned / "train" / "checkpoints").weights
    assert {path[0] for path in saved} == {"adapter"}
    before, after = pretrained.open(str(base)), pretrained.open(str(tuned / "train"))
    assert after.architecture == before.architecture
    changed = {path for path in weights(before.architecture) if not np.array_equal(before.read(path), after.read(path))}
    assert changed == {("layers", "attention", "query"), ("layers", "mlp", "down")}


def test_each_kept_checkpoint_is_a_peft_folder_that_opens_as_the_run_does(base, tuned):
    assert sorted(path.name for path in (tuned / "train" / "adapter").iterdir()) == ["2", "4"]
    folder = tuned / "train" / "adapter" / str(STEPS)
    content = json.loads((folder / "adapter_config.json").read_text())
    assert content["base_model_name_or_path"] == str(base) and content["lora_dropout"] == 0.1
    assert all(name.startswith("base_model.model.model.layers.") for name in load_file(folder / "adapter_model.safetensors"))
    ours, theirs = pretrained.open(str(tuned / "train")), pretrained.open(str(folder))
    assert all(np.array_equal(ours.read(path), theirs.read(path)) for path in weights(ours.architecture))
    assert theirs.tokenizer.chat_template == ours.tokenizer.chat_template


@pytest.mark.prove
def test_a_run_is_resumed_with_its_masks(files, base, tuned, tmp_path):
    shutil.copytree(tuned, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "train" / "checkpoints" / str(STEPS))
    shutil.rmtree(tmp_path / "run" / "train" / "adapter")
    run(settings(files, tmp_path / "run", base))
    assert losses(tmp_path / "run") == losses(tuned)
    read = [checkpoint.restore_params(folder / "train" / "checkpoints") for folder in (tuned, tmp_path / "run")]
    assert jax.tree.all(jax.tree.map(np.array_equal, *read))
    assert sorted(path.name for path in (tmp_path / "run" / "train" / "adapter").iterdir()) == ["2", "4"]


def test_it_is_converted_to_a_peft_folder_or_merged(tuned, tmp_path):
    def converted(name, **changes):
        words = {"dir": str(tmp_path), "source": str(tuned / "train"), "target": str(tmp_path / name), **changes}
        return convert.run(parse(convert_config.Config, words))

    alone = converted("alone", verify=True)
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "conversion.json"} <= {path.name for path in alone.iterdir()}
    kept = tuned / "train" / "adapter" / str(STEPS) / "adapter_model.safetensors"
    assert (alone / "adapter_model.safetensors").read_bytes() == kept.read_bytes()
    card = (alone / "README.md").read_text()
    assert "PeftModel.from_pretrained" in card and "LoRA of rank 4" in card and str(tmp_path) not in card.replace(str(alone), "")
    merged, run = pretrained.open(str(converted("merged", merge=True))), pretrained.open(str(tuned / "train"))
    assert all(np.array_equal(merged.read(path), run.read(path)) for path in weights(run.architecture))
    with pytest.raises(UserError, match="dtype=bfloat16: an adapter is written in float32"):
        converted("half", dtype="bfloat16")


@pytest.mark.prove
def test_over_four_bits_the_run_opens_as_it_was_evaluated_and_both_merges_are_compared(files, tmp_path, capsys):
    base = random_model(files, tmp_path / "base", hidden_size=64, intermediate_size=64, num_heads=4, head_dim=16)
    adapter = {"rank": 4, "base": "nf4"}
    run(settings(files, tmp_path / "run", base, adapter=adapter, evaluate_every=STEPS, optimizer={"learning_rate": 1e-1}))
    lines = metrics.read(tmp_path / "run" / "train" / "metrics.jsonl")
    measured = next(line["heldout_loss"] for line in lines if "heldout_loss" in line)
    words = {"dir": str(tmp_path), "source": str(tmp_path / "run" / "train"), "target": str(tmp_path / "merged"), "merge": True}
    capsys.readouterr()
    convert.run(parse(convert_config.Config, words))
    said = capsys.readouterr().err
    ours = next(line for line in said.splitlines() if "as trained" in line)
    other = next(line for line in said.splitlines() if "own weights" in line)
    assert "Loss on 8 held-out records" in said and f"{measured:.4f}" in ours and "yes" in ours
    assert "no: merge_into=original" in other and f"{measured:.4f}" not in other
