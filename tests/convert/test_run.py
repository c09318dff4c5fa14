"""SmolLM2 as a Hugging Face folder that `transformers` loads, and targets and sources that convert refuses."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.config import parse
from alpaca_jax.convert import run as convert
from alpaca_jax.convert.config import Config
from alpaca_jax.data import template
from alpaca_jax.errors import UserError
from alpaca_jax.formats import names, native, pretrained
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.model import in_memory
from alpaca_jax.model import llama
from alpaca_jax.model.tree import unflatten


def _config(source: Path | str, target: Path, **changes: Any) -> Config:
    return parse(Config, {"dir": str(target.parent), "source": str(source), "target": str(target), **changes})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch and transformers
def test_smollm2_in_transformers(smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = convert.run(_config("smollm2-135m-instruct", tmp_path / "hf", license="apache-2.0"))
    assert "model.safetensors" in capsys.readouterr().out
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    source, again = pretrained.open(smollm2), pretrained.open(folder)
    assert again.architecture == source.architecture
    assert again.eos_ids == source.eos_ids
    state = theirs.state_dict()
    for path, weight in names.weights(source.architecture).items():
        ours = source.read(path)
        np.testing.assert_array_equal(again.read(path), ours)
        for (name, _), layer in zip(weight.tensors("huggingface"), ours if weight.name.stacked else ours[None], strict=True):
            np.testing.assert_array_equal(state[name].numpy(), weight.name.to_theirs(layer), err_msg=name)
    assert set(state) - {"lm_head.weight"} == {
        name for w in names.weights(source.architecture).values() for name, _ in w.tensors("huggingface")
    }

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "In 2024, name 3 cities."}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids == source.tokenizer.apply_chat(messages)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits.numpy()
    tokens = np.array([ids], np.int32)
    positions = np.arange(len(ids), dtype=np.int32)[None]
    params = pretrained.load_params(again)
    hidden = llama.forward(again.architecture, params, tokens, np.ones_like(tokens), positions)
    difference = float(np.abs(np.asarray(llama.logits(params, hidden)) - expected).max())
    print(f"largest difference of a logit: {difference:.2e}")
    assert difference < 2e-3
    assert theirs.generation_config.eos_token_id == 2


@pytest.fixture
def tiny(tiny_architecture: Any, smollm2: Path, tmp_path: Path) -> Path:
    """A tiny model in Hugging Face format with SmolLM2's tokenizer."""
    import dataclasses

    import jax

    tokenizer = pretrained.open(smollm2).tokenizer
    tokenizer = tokenizer.with_chat_template(template.get("alpaca", tokenizer).chat_template())
    architecture = dataclasses.replace(tiny_architecture, vocab_size=tokenizer.vocab_size)
    huggingface_export.export(tmp_path / "tiny", in_memory(architecture, tokenizer, llama.init(architecture, jax.random.key(0))))
    return tmp_path / "tiny"


def test_same_conversion_again_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    config = _config(tiny, tmp_path / "new" / "hf", dtype="bfloat16")
    folder = convert.run(config)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    convert.run(config)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["hf"]
    assert pretrained.open(folder).read(("embed", "weight")).dtype == jnp.bfloat16
    with pytest.raises(UserError, match=r"another conversion: dtype \(bfloat16 there, float32 now\)"):
        convert.run(_config(tiny, tmp_path / "new" / "hf"))


def test_card_shows_the_prompt(tiny: Path, tmp_path: Path) -> None:
    card = (convert.run(_config(tiny, tmp_path / "hf", license="apache-2.0")) / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "\nlicense: apache-2.0\n" in card
    assert "### Instruction:\nGive three tips for staying healthy.\n\n### Response:" in card
    assert "No licence was stated" not in card


def test_occupied_target(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        convert.run(_config(tiny, tmp_path / "hf"))
    with pytest.raises(UserError, match="is a file"):
        convert.run(_config(tiny, tmp_path / "hf" / "notes.txt"))
    assert (tmp_path / "hf" / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    convert.run(_config(tiny, tmp_path / "empty"))


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        convert.run(_config(tmp_path / "absent", tmp_path / "hf"))
    (tmp_path / "weights.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="is not a GGUF file"):
        convert.run(_config(tmp_path / "weights.bin", tmp_path / "hf"))
    with pytest.raises(UserError, match="holds no model"):
        convert.run(_config(tmp_path, tmp_path / "hf"))
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("stored_vocab", [None, 49_280])
def test_a_training_run(stored_vocab: int | None, tiny: Path, tmp_path: Path) -> None:
    from alpaca_jax.checkpoint import CheckpointConfig, Checkpoints

    model = pretrained.open(tiny)
    native.write(tmp_path / "run" / "train" / "model", model.architecture, model.tokenizer, eos_ids=(2, 0), source="a-teacher")
    with pytest.raises(UserError, match="has no checkpoint"):
        pretrained.open(tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run" / "train" / "checkpoints", CheckpointConfig(asynchronous=False))
    checkpoints.save(3, {"params": pretrained.load_params(model, stored_vocab=stored_vocab)}, {})
    checkpoints.close()

    folder = convert.run(_config(tmp_path / "run", tmp_path / "hf"))
    assert "a-teacher" in (folder / "README.md").read_text()
    exported, trained = pretrained.open(folder), pretrained.open(tmp_path / "run" / "train")
    assert exported.architecture == trained.architecture == model.architecture
    assert exported.eos_ids == trained.eos_ids == (2, 0)
    assert exported.tokenizer.fingerprint == model.tokenizer.fingerprint
    assert exported.tokenizer.chat_template == model.tokenizer.chat_template
    for path in names.weights(model.architecture):
        np.testing.assert_array_equal(exported.read(path), model.read(path))


def _same(one: Path, other: Path) -> bool:
    return all((other / file.name).read_bytes() == file.read_bytes() for file in one.glob("*.safetensors"))


def test_a_difference_is_added_to_its_base(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = pretrained.open(tiny)
    weights = {path: base.read(path) for path in names.weights(base.architecture)}
    differences = in_memory(base.architecture, base.tokenizer, unflatten({path: np.full_like(one, 0.25) for path, one in weights.items()}))
    huggingface_export.export(tmp_path / "difference", differences)
    tuned = pretrained.open(convert.run(_config(tmp_path / "difference", tmp_path / "tuned", base=str(tiny), verify=True)))
    assert "0.00e+00" in capsys.readouterr().out
    assert all(np.array_equal(tuned.read(path), (one.astype(np.float32) + 0.25).astype(tuned.dtype)) for path, one in weights.items())
    with pytest.raises(UserError, match="holds the weights of a whole model"):
        convert.run(_config(tmp_path / "tuned", tmp_path / "wrong", base=str(tiny)))
    assert not (tmp_path / "wrong").exists()


def test_a_dry_run_writes_nothing(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    for target in ("hf", "model.gguf", "model.orbax"):
        convert.run(_config(tiny, tmp_path / target, dry_run=True))
    captured = capsys.readouterr()
    assert "would be read from" in captured.out
    assert "source: Hugging Face safetensors (llama," in captured.err
    for said in ("a Hugging Face folder", "a GGUF file", "a training folder with an Orbax checkpoint"):
        assert f"target: {said}; give to= for another format" in captured.err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_orbax_folder_is_trained_from_and_comes_back(tiny: Path, tmp_path: Path) -> None:
    folder = convert.run(_config(tiny, tmp_path / "model.orbax"))
    opened = pretrained.open(folder)
    assert opened.format == "Orbax checkpoint of step 0"
    params = pretrained.load_params(opened)
    np.testing.assert_array_equal(params["embed"]["weight"], pretrained.open(tiny).read(("embed", "weight")))
    assert _same(tiny, convert.run(_config(folder, tmp_path / "hf")))


def test_gguf_and_back(tiny: Path, tmp_path: Path) -> None:
    file = convert.run(_config(tiny, tmp_path / "model.gguf", dtype="bfloat16"))
    before = file.stat().st_mtime_ns
    assert convert.run(_config(tiny, tmp_path / "model.gguf", dtype="bfloat16")).stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"another conversion: dtype \(bfloat16 there, float16 now\)"):
        convert.run(_config(tiny, tmp_path / "model.gguf", dtype="float16"))
    assert _same(convert.run(_config(tiny, tmp_path / "straight", dtype="bfloat16")), convert.run(_config(file, tmp_path / "hf")))
    with pytest.raises(UserError, match=r"dtype=q8_0 is for GGUF files"):
        _config(tiny, tmp_path / "hf", dtype="q8_0")
