"""LoRA adapters merged on the fly, against what PEFT merges, and adapters that don't fit their base."""

import copy
import dataclasses
import json
import re
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.adapter import config as adapter_config
from alpaca_jax.formats.adapter import lora
from alpaca_jax.formats.adapter import reader as adapter
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.huggingface import reader as huggingface
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import weights
from alpaca_jax.tokenizer import Tokenizer

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, transformers and peft

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "every matrix": {"target_modules": LINEAR},
    "queries of one layer": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "by the root of the rank": {"target_modules": ["v_proj", "down_proj"], "use_rslora": True},
    "patterns": {
        "target_modules": LINEAR,
        "rank_pattern": {"q_proj": 3, "layers.1.self_attn.v_proj": 1, r"^model\.layers\.2\.mlp\.up_proj": 5},
        "alpha_pattern": {"mlp.up_proj": 7, "q_proj": 32},
    },
    "whole tables": {"target_modules": ["o_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm"]},
    "tables too": {"target_modules": ["embed_tokens", "lm_head", "k_proj"]},
    "a whole matrix": {"target_modules": ["q_proj"], "modules_to_save": ["up_proj"]},
    "dora": {"target_modules": [*LINEAR, "lm_head"], "use_dora": True},
}


def _train(model: Any, folder: Path, safe: bool = True, **settings: Any) -> dict[str, np.ndarray]:
    """Saves an adapter with random values, and returns the weights that PEFT merges it into."""
    peft = pytest.importorskip("peft")
    made = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**{"r": 2, "lora_alpha": 6, "task_type": "CAUSAL_LM", **settings}))
    torch.manual_seed(1)
    for name, parameter in made.named_parameters():
        if "lora_magnitude" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    made.save_pretrained(folder, safe_serialization=safe)
    return {name: tensor.float().numpy() for name, tensor in made.merge_and_unload().state_dict().items()}


def _check(model: Pretrained, expected: dict[str, np.ndarray], atol: float = 2e-6) -> None:
    names = []
    for path, weight in weights(model.architecture).items():
        whole = model.read(path)
        assert whole.shape == weight.shape
        layers = whole if weight.name.stacked else whole[None]
        for (name, _), layer in zip(weight.tensors("huggingface"), layers, strict=True):
            names.append(name)
            np.testing.assert_allclose(weight.name.to_theirs(layer), expected[name], atol=atol, rtol=0, err_msg=name)
        for rows in (slice(0, 1), slice(1, 3), slice(weight.shape[0] - 1, None)):
            np.testing.assert_allclose(model.read(path, (rows,)), whole[rows], atol=1e-6)
        if whole.ndim > 2:
            index = (slice(1, 2), slice(5, 20), slice(1, 2), *(slice(2, 7),) * (whole.ndim - 3))
            np.testing.assert_allclose(model.read(path, index), whole[index], atol=1e-6)
    assert set(names) == expected.keys() - ({"lm_head.weight"} if model.architecture.tie_embeddings else set())


@pytest.mark.parametrize("kind", KINDS)
def test_merged_as_peft_does(kind: str, make_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = make_llama()
    expected = _train(model, tmp_path, **KINDS[kind])
    base = huggingface.open_folder(folder)
    monkeypatch.setattr(lora, "_BLOCK", 100)  # so that changes are worked out in many pieces
    found = adapter.merge(tmp_path, base)
    _check(found, expected)
    assert dataclasses.replace(found.architecture) == base.architecture
    assert set(found.files) == {*base.files, tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"}
    assert "LoRA" in found.format and found.notes


def test_a_pickled_adapter(make_llama: Any, tmp_path: Path) -> None:
    folder, model = make_llama()
    expected = _train(model, tmp_path, target_modules=LINEAR)
    file = tmp_path / "adapter_model.safetensors"
    torch.save({name: torch.from_numpy(tensor) for name, tensor in load_file(file).items()}, tmp_path / "adapter_model.bin")
    file.unlink()
    _check(adapter.merge(tmp_path, huggingface.open_folder(folder)), expected)


def test_a_larger_vocabulary(make_llama: Any, tiny_tokenizer: Path, tmp_path: Path) -> None:
    folder, model = make_llama()
    larger = copy.deepcopy(model)
    larger.resize_token_embeddings(101)
    expected = _train(larger, tmp_path, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    for file in tiny_tokenizer.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 18, "content": "<end>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    base = huggingface.open_folder(folder)
    found = adapter.merge(tmp_path, base)
    _check(found, expected)
    assert found.architecture.vocab_size == 101
    assert any("from 96 to 101" in note for note in found.notes)
    assert found.tokenizer.encode("<end>", special=True) == [18] != base.tokenizer.encode("<end>", special=True)
    file = tmp_path / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if "lm_head" not in name}, file)
    with pytest.raises(UserError, match=r"both model\.embed_tokens\.weight and lm_head\.weight"):
        adapter.merge(tmp_path, base)


@pytest.mark.parametrize("changed", ["head", "both the same", "neither"])
def test_a_base_that_ties_its_output(changed: str, make_llama: Any, tmp_path: Path) -> None:
    folder, model = make_llama(tie_word_embeddings=True)
    expected = _train(model, tmp_path, target_modules=["q_proj"])
    expected.pop("lm_head.weight", None)
    file = tmp_path / "adapter_model.safetensors"
    rows = np.random.default_rng(0).normal(size=(96, 32)).astype(np.float32)
    more = {"head": ["lm_head"], "both the same": ["lm_head", "model.embed_tokens"], "neither": []}[changed]
    save_file({**load_file(file), **{f"base_model.model.{name}.weight": rows for name in more}}, file)
    found = adapter.merge(tmp_path, huggingface.open_folder(folder))
    assert found.architecture.tie_embeddings == (changed != "head")
    assert any("no longer tied" in note for note in found.notes) == (changed == "head")
    _check(found, {**expected, **{f"{name}.weight": rows for name in more}})


def test_the_dtype_of_the_base_stays(make_llama: Any, tmp_path: Path) -> None:
    folder, model = make_llama()
    expected = _train(model, tmp_path, target_modules=LINEAR, modules_to_save=["norm"])
    base = huggingface.open_folder(folder)
    read = base.read
    half = dataclasses.replace(base, read=lambda path, index=(): read(path, index).astype(ml_dtypes.bfloat16), dtype="bfloat16")
    found = adapter.merge(tmp_path, half)
    for path, weight in weights(base.architecture).items():
        assert found.read(path).dtype.name == "bfloat16"
        if path == ("layers", "mlp", "up"):  # one rounding, of the sum
            change = expected["model.layers.1.mlp.up_proj.weight"] - model.state_dict()["model.layers.1.mlp.up_proj.weight"].numpy()
            plain = half.read(path)[1].T.astype(np.float32)
            rounded = (plain + change).astype(ml_dtypes.bfloat16)
            found_there = weight.name.to_theirs(found.read(path)[1])
            assert np.mean(found_there == rounded) > 0.99  # a sum that lies between two values may round either way
    np.testing.assert_array_equal(half.read(("embed", "weight")), found.read(("embed", "weight")))


def test_the_base_is_not_written_into(make_llama: Any, tmp_path: Path) -> None:
    folder, model = make_llama()
    _train(model, tmp_path, target_modules=LINEAR)
    base = huggingface.open_folder(folder)
    held = {path: base.read(path) for path in weights(base.architecture)}
    before = {path: weight.copy() for path, weight in held.items()}
    found = adapter.merge(tmp_path, dataclasses.replace(base, read=lambda path, index=(): held[path][index]))
    for path in held:
        found.read(path)
        np.testing.assert_array_equal(held[path], before[path])


@pytest.fixture
def trained(make_llama: Any, tmp_path: Path) -> tuple[Path, Pretrained]:
    """An adapter written by hand, so that its refusals are tested without PEFT too."""
    folder, _ = make_llama()
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {f"{prefix}.lora_A.weight": np.ones((2, 32), np.float32), f"{prefix}.lora_B.weight": np.ones((48, 2), np.float32)},
        tmp_path / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "base_model_name_or_path": str(folder)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    return tmp_path, huggingface.open_folder(folder)


def test_by_hand(trained: tuple[Path, Pretrained]) -> None:
    folder, base = trained
    assert adapter.base_of(folder) == base.source
    found = adapter.merge(folder, base)
    query = ("layers", "attention", "query")
    np.testing.assert_allclose(found.read(query)[0], base.read(query)[0] + 2 / 2 * 4, rtol=1e-6)
    np.testing.assert_array_equal(found.read(query)[1:], base.read(query)[1:])
    assert found.tokenizer is base.tokenizer and found.source == str(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "only LORA"),
        ({"peft_type": None}, "peft_type"),
        ({"bias": "all"}, "bias='all'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
        ({"trainable_token_indices": [1]}, r"trainable_token_indices=\[1\]"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"r": 0}, "r is 0"),
        ({"r": 3}, r"lora_A\.weight has the shape \[2, 32\]; the rank of 3 and the base need \[3, 32\]"),
        ({"rank_pattern": {"q_proj": 4}}, "the rank of 4"),
    ],
)
def test_other_configs(change: dict[str, Any], message: str, trained: tuple[Path, Pretrained]) -> None:
    folder, base = trained
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        adapter.merge(folder, base)


def test_tensors_that_do_not_fit(trained: tuple[Path, Pretrained]) -> None:
    folder, base = trained
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    zeros = np.zeros((2, 2), np.float32)
    more = {
        "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": zeros,
        "base_model.model.model.norm.lora_A.weight": zeros,
        "model.layers.0.self_attn.k_proj.lora_A.weight": zeros,
        "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": np.zeros((2, 31), np.float32),
        "base_model.model.model.layers.0.mlp.down_proj.weight": zeros,
    }
    save_file(tensors | more, file)
    with pytest.raises(UserError) as caught:
        adapter.merge(folder, base)
    for part in (
        "not part of",
        *list(more)[:3],
        "up_proj: lora_B is missing",
        "the rank of 2 and the base need [2, 32]",
        "down_proj.weight has the shape [2, 2], the base [32, 48]",
    ):
        assert part in str(caught.value)
    file.unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is missing"):
        adapter.merge(folder, base)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(UserError, match="has no base_model_name_or_path"):
        adapter.base_of(folder)


def test_a_tokenizer_of_its_own(trained: tuple[Path, Pretrained], tiny_tokenizer: Path) -> None:
    folder, base = trained
    Tokenizer.load(tiny_tokenizer).with_chat_template("{{ 1 }}").save(folder)
    assert adapter.merge(folder, base).tokenizer.chat_template == "{{ 1 }}"


def _plain(folder: Path, **changes: Any) -> None:
    """An adapter of the queries of three layers, without PEFT."""
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "nobody/has-it"}
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    random = np.random.default_rng(0)
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{part}.weight": random.normal(size=shape).astype(np.float32)
        for layer in range(3)
        for part, shape in (("A", (2, 32)), ("B", (48, 2)))
    }
    save_file(tensors, folder / "adapter_model.safetensors")


def _opened(folder: Path, base: Path | None = None) -> Pretrained:
    return pretrained.open(ModelConfig(source=str(folder), base=None if base is None else str(base)))


def test_an_adapter_that_changes_nothing_is_said(make_llama: Any, tmp_path: Path) -> None:
    base, _ = make_llama()
    _plain(tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_model.safetensors"
    tensors = load_file(file)
    assert not any("nothing" in note for note in _opened(tmp_path / "lora", base).notes)
    save_file({name: tensor * ("lora_B" not in name or ".1." not in name) for name, tensor in tensors.items()}, file)
    assert "changes nothing, since its lora_B is zero: model.layers.1.self_attn.q_proj" in _opened(tmp_path / "lora", base).notes
    save_file({name: tensor * ("lora_B" not in name) for name, tensor in tensors.items()}, file)
    model = _opened(tmp_path / "lora", base)
    assert "the adapter changes nothing: every lora_B is zero, as before its training; the result is the base" in model.notes
    np.testing.assert_array_equal(
        model.read(("layers", "attention", "query")), huggingface.open_folder(base).read(("layers", "attention", "query"))
    )


MISSING = {
    "a list": ({"target_modules": ["q_proj", "v_proj"]}, "model.layers.{0-2}.self_attn.v_proj"),
    "some layers": ({"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]}, "model.layers.1.self_attn.v_proj"),
    "a pattern": ({"target_modules": r".*\.(q|k)_proj"}, "model.layers.{0-2}.self_attn.k_proj"),
    "not all": ({"target_modules": "all-linear", "exclude_modules": ["mlp.up_proj", "v_proj", "k_proj", "o_proj", "gate_proj"]},
                "model.layers.{0-2}.mlp.down_proj"),
    "a whole table": ({"modules_to_save": ["lm_head"]}, "lm_head"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISSING)
def test_what_the_config_names_and_the_file_lacks_is_said(case: str, make_llama: Any, tmp_path: Path) -> None:
    changes, missing = MISSING[case]
    base, _ = make_llama()
    _plain(tmp_path / "lora", **changes)
    notes = _opened(tmp_path / "lora", base).notes
    assert f"adapter_config.json names more than the adapter holds; left as in the base: {missing}" in notes


def test_an_adapter_beside_a_whole_model(make_llama: Any, tmp_path: Path) -> None:
    folder, _ = make_llama()
    plain = huggingface.open_folder(folder).read(("layers", "attention", "query"))
    _plain(folder)
    with pytest.raises(UserError, match=r"holds both a whole model \(model\.safetensors\) and an adapter .* or give base="):
        _opened(folder)
    merged = _opened(folder, folder)
    assert not np.array_equal(merged.read(("layers", "attention", "query")), plain)
    other, _ = make_llama(initializer_range=0.1)
    assert any("left out: model.safetensors beside the adapter" in note for note in _opened(folder, other).notes)


def test_an_adapter_that_is_its_own_base(make_llama: Any, tmp_path: Path) -> None:
    _plain(tmp_path / "one", base_model_name_or_path=str(tmp_path / "two"))
    _plain(tmp_path / "two", base_model_name_or_path=str(tmp_path / "one"))
    for folder in (tmp_path / "one", tmp_path / "two"):
        with pytest.raises(UserError, match="which is this adapter itself"):
            _opened(folder)
    _plain(tmp_path / "one", base_model_name_or_path=str(tmp_path / "one"))
    with pytest.raises(UserError, match="which is this adapter itself"):
        _opened(tmp_path / "one")


WRONG = {
    "r": [0, -2, 2.5, True, "2", 10**9, [2]],
    "lora_alpha": [0, -1, "4", True, "=NaN", "=Infinity", "=1e400"],
    "rank_pattern": [[], "q_proj", {"q_proj": 0}, {"q_proj": "2"}, {"(?=a)q_proj": 2}, {"[": 2}, {"q" * 3000: 2}],
    "alpha_pattern": [{"q_proj": "=NaN"}, {"q_proj": -1}, {"\\1": 2}, {f"p{number}": 1 for number in range(3000)}],
    "use_rslora": ["yes", 1],
    "target_modules": [3, {"q_proj": 1}, [["q_proj"]], "(?<!k)q_proj"],
    "modules_to_save": ["lm_head", [1]],
    "layers_to_transform": ["1", [1.5], {}],
    "base_model_name_or_path": [3, ["a"]],
    "peft_type": [None, 1, []],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_value_that_is_none_of_its_key_is_refused_by_file_and_key(key: str, value: Any, tmp_path: Path) -> None:
    _plain(tmp_path / "lora", **{key: value})
    file = tmp_path / "lora" / "adapter_config.json"
    file.write_text(re.sub(r'"=([^"]+)"', r"\1", file.read_text()))
    with pytest.raises(UserError) as caught:
        adapter_config.check(tmp_path / "lora", adapter_config.read(tmp_path / "lora"))
    assert str(file) in str(caught.value)
    assert key in str(caught.value)


def test_a_pattern_that_backtracks_takes_no_time(make_llama: Any, tmp_path: Path) -> None:
    base, _ = make_llama()
    slow = {f"(([a-z._0-9]+)+)+x{number}": 3 for number in range(50)} | {"(.*.*.*.*)*y": 3}
    _plain(tmp_path / "lora", rank_pattern=slow, alpha_pattern=slow)
    before = time.process_time()
    _opened(tmp_path / "lora", base)
    assert time.process_time() - before < 2


@pytest.mark.parametrize("content", [b"[" * 5000, b"[]", b"3", b'{"peft_type": "\xff"}', b'{"peft_type": "\\ud800"}', b" " * (5 << 20)])
def test_what_is_no_config(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        adapter_config.read(tmp_path)
