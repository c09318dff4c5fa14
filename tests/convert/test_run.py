"""SmolLM2 as a Hugging Face folder that `transformers` loads, and targets and sources that convert refuses."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.config import parse
from alpaca_jax.convert import outputs, verify
from alpaca_jax.convert import run as convert
from alpaca_jax.convert.config import Config
from alpaca_jax.data import template
from alpaca_jax.errors import UserError
from alpaca_jax.formats import names, native, pretrained, writing
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.model import in_memory
from alpaca_jax.model import llama
from alpaca_jax.model.tree import unflatten
from alpaca_jax.tokenizer import Tokenizer


def _config(source: Path | str, target: Path, **changes: Any) -> Config:
    return parse(Config, {"dir": str(target.parent), "source": str(source), "target": str(target), **changes})


@pytest.mark.prove
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


@pytest.fixture
def small(tiny_architecture: Any, tiny_tokenizer: Path, tmp_path: Path) -> Path:
    """A tiny model in Hugging Face format with a tokenizer of a few tokens."""
    import jax

    tokenizer = Tokenizer.load(tiny_tokenizer)
    model = in_memory(tiny_architecture, tokenizer, llama.init(tiny_architecture, jax.random.key(0)))
    huggingface_export.export(tmp_path / "small", model)
    return tmp_path / "small"


def test_a_folder_that_is_there_is_kept_and_filled(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = convert.run(_config(small, tmp_path / "plain"))
    names_of = lambda folder: sorted(path.name for path in folder.iterdir())  # noqa: E731
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "other")
    for target, place in (("link", "real"), ("dangling", "other")):
        inode = (tmp_path / place).stat().st_ino if (tmp_path / place).exists() else None
        folder = convert.run(_config(small, tmp_path / target))
        assert folder.is_symlink() and names_of(tmp_path / place) == names_of(plain)
        assert inode in (None, (tmp_path / place).stat().st_ino)
        assert _same(plain, folder)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for _ in range(2):  # the second finds it there
        convert.run(_config(small, Path("."), dir=str(tmp_path)))
        assert names_of(here) == names_of(Path.cwd()) == names_of(plain)
    assert (here / "README.md").read_text().count("here") >= 1
    (tmp_path / "file.gguf").symlink_to(tmp_path / "real.gguf")
    partial = writing.Partial(tmp_path / "file.gguf", {})
    (partial.folder / "made").touch()
    partial.finish("made")
    assert (tmp_path / "real.gguf").is_file() and (tmp_path / "file.gguf").is_symlink()
    (tmp_path / "orbax").mkdir()
    convert.run(_config(small, tmp_path / "orbax", to="orbax"))
    assert pretrained.open(tmp_path / "orbax").format == "Orbax checkpoint of step 0"
    assert not list(tmp_path.rglob(".*partial"))


def test_a_conversion_into_a_link_goes_on_where_it_was_killed(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    config = _config(small, tmp_path / "link")

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(huggingface_export, "_write_settings", killed)
        with pytest.raises(KeyboardInterrupt):
            convert.run(config)
    (shard,) = (tmp_path / "real" / ".partial").glob("*.safetensors")
    before = shard.stat().st_ino
    assert (convert.run(config) / "model.safetensors").stat().st_ino == before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("file/hf", "is not a folder"),
        ("file/deeper/model.gguf", "is not a folder"),
        ("loop/hf", "can't be written|can't be read"),
        ("x" * 250, "File name too long"),
        ("nothing\0here", "is not a path"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused(target: str, message: str, small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        convert.run(_config(small, tmp_path / target))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_read_only_place_is_refused_before_the_model_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere else
    for target in ("hf", "deep/er/model.gguf"):
        with pytest.raises(UserError, match=f"{tmp_path} is read-only, or not yours to write in"):
            convert.run(_config("nobody/has-it", tmp_path / target))


def test_a_gguf_target_that_is_a_folder(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder, and a GGUF file is one file: give target=.*/model\.gguf"):
        convert.run(_config(small, tmp_path, to="gguf"))
    (tmp_path / "kept" / ".partial").mkdir(parents=True)
    (tmp_path / "kept" / ".partial" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        convert.run(_config(small, tmp_path / "kept"))
    for empty in ("", " "):
        with pytest.raises(UserError, match="target is empty"):
            parse(Config, {"dir": "x", "source": "y", "target": empty})


@pytest.mark.parametrize("name", ["x [draft]", "x [/y]", "x :smile:", "a\x1b[31mred", "it's, {odd}"])
def test_names_are_printed_as_they_are(name: str, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    from hydra.core.override_parser.overrides_parser import OverridesParser

    convert.run(_config(small, tmp_path / name))
    printed = capsys.readouterr()
    visible = name.replace("\x1b", "\\x1b")
    assert "".join(visible.split()) in "".join(printed.out.partition("┏")[0].split())  # the title wraps
    command = printed.err.rpartition("chat with it: ")[2].strip()
    if "\x1b" not in name:
        word = shlex.split(command)[2]
        assert OverridesParser.create().parse_override(word).value() == str(tmp_path / name)


def test_weights_of_a_wider_dtype_are_said(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ml_dtypes
    from safetensors.numpy import load_file, save_file

    tensors = load_file(small / "model.safetensors")
    wide = ("model.norm.weight", "model.embed_tokens.weight")
    save_file(
        {name: weight.astype(np.float32 if name in wide else ml_dtypes.bfloat16) for name, weight in tensors.items()},
        small / "model.safetensors",
    )
    monkeypatch.setattr(verify, "_by_transformers", lambda *arguments: None)
    said = "rounded from float32 to bfloat16, the dtype of most weights, unless dtype=float32 is given"
    convert.run(_config(small, tmp_path / "hf", verify=True))  # rounding is no fault of the conversion
    err = capsys.readouterr().err
    assert f"{said}: " in err and all(name in err for name in wide)
    gguf = _config(small, tmp_path / "model.gguf")
    assert outputs.rounded(gguf, pretrained.open(small)) == ["model.embed_tokens.weight"]  # its vectors stay float32
    kept = convert.run(_config(small, tmp_path / "wide", dtype="float32"))
    assert "rounded" not in capsys.readouterr().err
    again = load_file(kept / "model.safetensors")
    assert all(np.array_equal(again[name], tensors[name]) for name in wide)
