"""Weight differences: the tuned model comes back bit for bit, and what doesn't fit is said."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.formats import difference, float_difference, model, pretrained, safetensors
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.huggingface import reader as huggingface
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import weights
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import flatten, unflatten
from alpaca_jax.tokenizer import Tokenizer

BASE = Architecture(
    vocab_size=18,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    max_positions=64,
    tie_embeddings=True,
)
TUNED = dataclasses.replace(BASE, vocab_size=19, tie_embeddings=False)  # a row more, and a head of its own
DTYPES = ("float32", "bfloat16", "float16")


def numpy_dtype(name: str) -> Any:
    return ml_dtypes.bfloat16 if name == "bfloat16" else name


def make(architecture: Architecture, tokenizer: Path, seed: int, dtype: str, like: Pretrained | None = None) -> Pretrained:
    """A model in memory; its weights are near those of `like`, as a tuned model's are."""
    params = flatten(jax.tree.map(np.array, llama.init(architecture, jax.random.key(seed))))
    for path, weight in params.items():
        if like is not None and path in weights(like.architecture):
            theirs = like.read(path).astype(np.float32)
            weight[: len(theirs)] = theirs + 0.01 * weight[: len(theirs)]
    embed = params["embed", "weight"]
    embed[0, :4] = [0.0, -0.0, 1e-7, -1e-7]  # signs of zero and what is denormal in float16
    made = unflatten({path: weight.astype(numpy_dtype(dtype)) for path, weight in params.items()})
    return dataclasses.replace(model.in_memory(architecture, Tokenizer.load(tokenizer), made), source=f"models/{seed}")


def same(left: Pretrained, right: Pretrained) -> bool:
    assert left.architecture == right.architecture
    return all(left.read(path).tobytes() == right.read(path).tobytes() for path in weights(right.architecture))


@pytest.fixture(params=DTYPES)
def models(request: pytest.FixtureRequest, tiny_tokenizer: Path) -> tuple[Pretrained, Pretrained]:
    base = make(BASE, tiny_tokenizer, 0, "bfloat16")
    return make(TUNED, tiny_tokenizer, 1, request.param, like=base), base


def test_the_tuned_model_comes_back_bit_for_bit(models: tuple[Pretrained, Pretrained], tmp_path: Path) -> None:
    tuned, base = models
    told: list[str] = []
    difference.export(tmp_path / "diff", tuned, base, {"README.md": "hello"}, told.append, shard_bytes=3000)
    assert len(told) == len(set(told)) == len(huggingface_export.listing(TUNED, "float32"))
    assert len(list((tmp_path / "diff").glob("weight_difference-*.safetensors"))) > 1
    assert (tmp_path / "diff" / "README.md").read_text() == "hello"
    assert json.loads((tmp_path / "diff" / "config.json").read_text())["dtype"] == tuned.dtype
    assert difference.base_of(tmp_path / "diff") == "models/0"

    # The base as others hold it: in files, cut otherwise, in a wider dtype.
    huggingface_export.export(tmp_path / "base", base, "float32", shard_bytes=2000)
    opened = difference.open(tmp_path / "diff", huggingface.open(tmp_path / "base"))
    assert opened.dtype == tuned.dtype
    assert same(opened, tuned)
    for path, index in {("embed", "weight"): (slice(16, 19), slice(2, 5)), ("layers", "mlp", "down"): (slice(1, 2), slice(3, 9))}.items():
        assert opened.read(path, index).tobytes() == tuned.read(path, index).tobytes()

    huggingface_export.export(tmp_path / "recovered", opened)
    assert same(huggingface.open(tmp_path / "recovered"), tuned)


def test_it_opens_like_any_model(tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make(BASE, tiny_tokenizer, 0, "float32")
    tuned = make(BASE, tiny_tokenizer, 1, "float32", like=base)
    huggingface_export.export(tmp_path / "base", base)
    difference.export(tmp_path / "diff", tuned, base.named("base"))
    given = pretrained.open(ModelConfig(source=str(tmp_path / "diff"), base=str(tmp_path / "base")))
    assert same(given, tuned) and given.source == str(tmp_path / "diff") and given.origin == str(tmp_path / "base")
    assert given.identity != pretrained.open(tmp_path / "base").identity
    monkeypatch.chdir(tmp_path)
    assert same(pretrained.open("diff"), tuned)  # by the name of the base in its manifest
    np.testing.assert_array_equal(pretrained.load_params(given)["norm"]["scale"], tuned.read(("norm", "scale")))


def test_what_the_base_lacks_is_stored_as_it_is(models: tuple[Pretrained, Pretrained], tmp_path: Path) -> None:
    tuned, base = models
    difference.export(tmp_path / "diff", tuned, base)
    opened = difference.open(tmp_path / "diff", base)
    head, rows = (safetensors.read(opened.stored[name]) for name in ("lm_head.weight", "model.embed_tokens.weight"))
    assert head.tobytes() == tuned.read(("head", "weight")).tobytes()
    assert rows[18:].tobytes() == tuned.read(("embed", "weight"))[18:].tobytes()
    assert not rows[0, :2].any()  # equal bits leave nothing


@pytest.fixture
def made(tiny_tokenizer: Path, tmp_path: Path) -> tuple[Pretrained, Pretrained, Path]:
    """A tuned model and its base, both in float16, and the folder of their difference."""
    base = make(BASE, tiny_tokenizer, 0, "float16")
    tuned = make(TUNED, tiny_tokenizer, 1, "float16", like=base)
    difference.export(tmp_path / "diff", tuned, base)
    return tuned, base, tmp_path / "diff"


def test_another_base_is_refused_before_a_weight_is_given(made: Any, tiny_tokenizer: Path) -> None:
    _, base, folder = made
    other = make(BASE, tiny_tokenizer, 2, "float16")
    opened = difference.open(folder, other)
    with pytest.raises(UserError, match=r"models/2 is another model than models/0, the base that .*: the sizes are the same, but"):
        opened.read(("norm", "scale"))
    rounded = {path: base.read(path).astype(ml_dtypes.bfloat16) for path in weights(BASE)}
    rounded_base = model.in_memory(BASE, base.tokenizer, unflatten(rounded))
    with pytest.raises(UserError, match="That one was stored as float16, this one is bfloat16"):
        difference.open(folder, rounded_base).read(("norm", "scale"))
    changed = dataclasses.replace(BASE, num_layers=1, intermediate_size=32)
    with pytest.raises(UserError, match=r"(?s)layers.0.mlp.gate_proj.weight has the shape \[32, 16\], not \[24, 16\].*layers.1"):
        difference.open(folder, make(changed, tiny_tokenizer, 0, "float16"))


def test_a_damaged_difference_is_found(made: Any) -> None:
    _, base, folder = made
    file = folder / "weight_difference.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"diff is damaged: with the right base it does not give the model"):
        difference.open(folder, base).read(("norm", "scale"))
    file.write_bytes(content[:-20])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        difference.open(folder, base)
    file.rename(folder / "weight_difference-00001-of-00002.safetensors")
    with pytest.raises(UserError, match="has 1 of the 2 files"):
        difference.open(folder, base)
    manifest = json.loads((folder / difference.FILE).read_text())
    (folder / difference.FILE).write_text(json.dumps(manifest | {"result": {}}))
    with pytest.raises(UserError, match="lacks dtype, base or result"):
        difference.base_of(folder)
    (folder / difference.FILE).write_text(json.dumps(manifest | {"version": 2}))
    with pytest.raises(UserError, match="is of version 2, and only 1 is read"):
        difference.base_of(folder)


def test_models_of_other_sizes_have_no_difference(made: Any, tiny_tokenizer: Path, tmp_path: Path) -> None:
    _, base, _ = made
    wide = make(dataclasses.replace(TUNED, intermediate_size=32), tiny_tokenizer, 1, "float16")
    with pytest.raises(UserError, match=r"(?s)models/0 is no base of models/1:.*gate_proj.weight has the shape \[24, 16\] there"):
        difference.export(tmp_path / "wide", wide, base)
    broken = dataclasses.replace(make(BASE, tiny_tokenizer, 1, "float16"), source="broken")
    read = broken.read
    broken = dataclasses.replace(broken, read=lambda path, index=(): read(path, index) * np.float16(np.inf if path[0] == "norm" else 1))
    with pytest.raises(UserError, match=r"broken: norm.scale has values that are not finite in float16"):
        difference.export(tmp_path / "broken", broken, base)
    assert not (tmp_path / "broken").exists() and not list(tmp_path.glob(".broken*"))


def test_the_name_of_the_base_tells_no_path_of_this_machine(made: Any, tmp_path: Path) -> None:
    tuned, base, _ = made
    difference.export(tmp_path / "named", tuned, base.named(str(tmp_path / "llama-7b")))
    assert difference.base_of(tmp_path / "named") == "llama-7b"
    assert str(tmp_path) not in (tmp_path / "named" / difference.FILE).read_text()


@pytest.mark.filterwarnings("ignore")  # of torch and transformers
def test_transformers_does_not_take_a_difference_for_a_model(made: Any) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    with pytest.raises(OSError, match="model.safetensors"):
        transformers.AutoModelForCausalLM.from_pretrained(made[2])


def published(tuned: Pretrained, base: Pretrained) -> Pretrained:
    """The difference as Stanford's script makes it: in float32, with the mean of the base's rows in the place of a row it lacks."""
    differences = {}
    for path, weight in weights(tuned.architecture).items():
        theirs = base.read(path)
        more = weight.shape[0] - len(theirs)
        resized = np.concatenate([theirs, np.repeat(theirs.mean(0, keepdims=True), more, 0)]) if more else theirs
        differences[path] = tuned.read(path) - resized
    return dataclasses.replace(model.in_memory(tuned.architecture, tuned.tokenizer, unflatten(differences)), source="wdiff")


def test_a_difference_as_stanford_published_it(tiny_tokenizer: Path, tmp_path: Path) -> None:
    untied = dataclasses.replace(BASE, tie_embeddings=False)
    base = make(untied, tiny_tokenizer, 0, "float32")
    tuned = make(TUNED, tiny_tokenizer, 1, "float32", like=base)
    huggingface_export.export(tmp_path / "wdiff", published(tuned, base))
    opened = float_difference.open(huggingface.open(tmp_path / "wdiff"), base)
    total = 0.0
    for path in weights(TUNED):
        np.testing.assert_allclose(opened.read(path), tuned.read(path), rtol=0, atol=3e-7)
        total += tuned.read(path).sum(dtype=np.float64)
    np.testing.assert_array_equal(opened.read(("head", "weight"), (slice(17, 19), slice(1, 4))), opened.read(("head", "weight"))[17:, 1:4])
    found = float(opened.notes[-1].split("all its weights is ")[1].split(",")[0])
    assert found == pytest.approx(total, abs=1e-3)


def test_a_whole_model_is_not_taken_for_a_difference(tiny_tokenizer: Path) -> None:
    base = make(BASE, tiny_tokenizer, 0, "float32")
    with pytest.raises(UserError, match="holds the weights of a whole model, not their difference"):
        float_difference.open(make(BASE, tiny_tokenizer, 1, "float32", like=base), base)
    other = make(dataclasses.replace(BASE, hidden_size=32), tiny_tokenizer, 1, "float32")
    with pytest.raises(
        UserError, match=r"(?s)models/1 is no difference to base=models/0.*attention_norm.scale is \[2, 32\] in it, \[2, 16\] in the base"
    ):
        float_difference.open(other, base)
