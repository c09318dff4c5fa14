"""Every family and every scaling of RoPE against `transformers`, in both directions, beyond the window and the original context."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding import batch_of

from alpaca_jax.formats import pretrained
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.model import llama
from alpaca_jax.model.tree import flatten

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and transformers

LENGTH, ORIGINAL, WINDOW = 40, 16, 5
LONG = {"max_position_embeddings": 64}
SLIDING = {"use_sliding_window": True, "sliding_window": WINDOW}


def scaled(kind: str, **rope: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **rope}}


def extended(kind: str, **rope: Any) -> dict[str, Any]:
    return scaled(kind, original_max_position_embeddings=ORIGINAL, **rope) | LONG


PAIRS = np.random.default_rng(3).uniform(1.0, 4.0, (2, 4)).tolist()  # factors of LongRoPE
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, linear": ("Llama", scaled("linear", factor=4.0)),
    "llama, dynamic": ("Llama", scaled("dynamic", factor=4.0) | {"max_position_embeddings": ORIGINAL}),
    "llama, llama3": ("Llama", extended("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0)),
    "llama, yarn": ("Llama", extended("yarn", factor=4.0)),
    "llama, yarn, all": (
        "Llama",
        extended("yarn", factor=4.0, beta_fast=8.0, beta_slow=0.5, mscale=1.5, mscale_all_dim=0.7, truncate=False),
    ),
    "llama, longrope": ("Llama", extended("longrope", factor=4.0, short_factor=PAIRS[0], long_factor=PAIRS[1])),
    "llama, biases": ("Llama", {"attention_bias": True}),
    "llama, every bias": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", {"sliding_window": WINDOW}),
    "mistral, full": ("Mistral", {"sliding_window": None} | extended("yarn", factor=4.0, attention_factor=1.3)),
    "qwen2": ("Qwen2", {}),
    "qwen2, window": ("Qwen2", {**SLIDING, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {}),
    "qwen3, all": ("Qwen3", {**SLIDING, "max_window_layers": 2, "attention_bias": True}),
    "smollm3": ("SmolLM3", {"no_rope_layer_interval": 2}),
    "smollm3, all": ("SmolLM3", {**SLIDING, "no_rope_layers": [0, 1, 0], "attention_bias": True, "mlp_bias": True}),
}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Any:
    """`make(case)`: a folder that `transformers` saved, and its model in fp32."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    made: dict[str, Any] = {}

    def build(case: str) -> tuple[Path, Any]:
        if case in made:
            return made[case]
        family, changes = CASES[case]
        sizes = {
            "vocab_size": 96,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 128,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
            "rms_norm_eps": 1e-6,
            "initializer_range": 0.3,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": None,
            "tie_word_embeddings": False,
        }
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**{**sizes, **changes})
        model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
        for name, weight in model.named_parameters():  # norms start as ones and biases as zeros, which hides a mistake
            if "norm" in name:
                torch.nn.init.uniform_(weight, 0.5, 1.5)
            if "bias" in name:
                torch.nn.init.uniform_(weight, -1.0, 1.0)
        folder = tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        for file in tiny_tokenizer.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        made[case] = (folder, model)
        return made[case]

    return build


def some_tokens(rows: int = 2) -> np.ndarray:
    return np.random.default_rng(1).integers(3, 96, (rows, LENGTH)).astype(np.int32)


def theirs(model: Any, tokens: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return copy.deepcopy(model)(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()  # dynamic RoPE remembers lengths


def ours(architecture: Any, params: Any, tokens: np.ndarray, segments: Any = None, positions: Any = None) -> np.ndarray:
    segments = np.ones_like(tokens) if segments is None else segments
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape) if positions is None else positions
    run = jax.jit(lambda params, *batch: llama.logits(params, llama.forward(architecture, params, *batch)))
    return np.asarray(run(params, tokens, segments, positions))


@pytest.mark.parametrize("case", CASES)
def test_logits_in_both_directions(case: str, make: Any, tmp_path: Path) -> None:
    import transformers

    folder, model = make(case)
    opened = pretrained.open(folder)
    tokens = some_tokens()
    expected = theirs(model, tokens)
    np.testing.assert_allclose(ours(opened.architecture, pretrained.load_params(opened), tokens), expected, atol=1e-4, rtol=0)
    huggingface_export.export(tmp_path / "hf", opened)
    assert pretrained.open(tmp_path / "hf").architecture == opened.architecture
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert type(again) is type(model)
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all((state[name] == weight).all() for name, weight in model.state_dict().items())
    np.testing.assert_allclose(theirs(again, tokens), expected, atol=1e-5, rtol=0)


WITHOUT = {
    "llama, linear": {"rope_scaling": None},
    "llama, dynamic": {"rope_scaling": None},
    "llama, llama3": {"rope_scaling": None},
    "llama, yarn": {"rope_scaling": None},
    "llama, longrope": {"rope_scaling": None},
    "mistral": {"sliding_window": WINDOW + 1},
    "qwen2, window": {"sliding_layers": (0, 1)},
    "smollm3": {"nope_layers": (2,)},
}


@pytest.mark.parametrize("case", WITHOUT)
def test_a_switch_forgotten_would_show(case: str, make: Any) -> None:
    folder, model = make(case)
    opened, tokens = pretrained.open(folder), some_tokens(1)
    wrong = dataclasses.replace(opened.architecture, **WITHOUT[case])
    assert np.abs(ours(wrong, pretrained.load_params(opened), tokens) - theirs(model, tokens)).max() > 1e-2


@pytest.mark.parametrize("case", ["qwen3, all", "llama, every bias"])
def test_each_new_weight_shows_and_has_a_gradient(case: str, make: Any) -> None:
    folder, _ = make(case)
    opened, tokens = pretrained.open(folder), some_tokens(1)
    params = pretrained.load_params(opened)
    batch = [jnp.asarray(x) for x in (tokens, np.ones_like(tokens), np.arange(LENGTH, dtype=np.int32)[None])]

    @jax.jit
    def logits(params: Any) -> jax.Array:
        return llama.logits(params, llama.forward(opened.architecture, params, *batch))

    expected = logits(params)
    gradients = flatten(jax.grad(lambda params: logits(params).var())(params))
    new = [path for path in gradients if path[-1].endswith("_bias") or path[-2] in ("query_norm", "key_norm")]
    assert len(new) == (6 if case == "qwen3, all" else 7)
    for path in new:
        changed = jax.tree_util.tree_map_with_path(lambda at, leaf, path=path: leaf + (tuple(key.key for key in at) == path) * 0.5, params)
        moved = np.abs(logits(changed) - expected).max()
        assert moved > 1e-2, path
        assert np.abs(gradients[path]).max() > 1e-6, path


@pytest.mark.parametrize("case", ["llama, dynamic", "llama, longrope", "mistral", "qwen2, window", "smollm3, all"])
def test_a_packed_text_is_scored_as_it_is_alone(case: str, make: Any) -> None:
    folder, model = make(case)
    opened, tokens = pretrained.open(folder), some_tokens(1)
    first = 12  # within the original context, and the second text beyond it
    segments = np.where(np.arange(LENGTH) < first, 1, 2)[None].astype(np.int32)
    positions = np.concatenate([np.arange(first), np.arange(LENGTH - first)])[None].astype(np.int32)
    packed = ours(opened.architecture, pretrained.load_params(opened), tokens, segments, positions)
    for part in (slice(0, first), slice(first, LENGTH)):
        np.testing.assert_allclose(packed[:, part], theirs(model, tokens[:, part]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_greedy_answers_are_those_of_generate(case: str, make: Any) -> None:
    import torch

    folder, model = make(case)
    opened = pretrained.open(folder)
    prompts = [row[:length].tolist() for row, length in zip(some_tokens(2), (ORIGINAL - 6, ORIGINAL + 9), strict=True)]
    answers = batch_of(opened.architecture, pretrained.load_params(opened), slots=2).generate(prompts, 20)
    for prompt, answer in zip(prompts, answers, strict=True):
        fresh = copy.deepcopy(model)
        fresh.generation_config.eos_token_id = None
        text = fresh.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=20)
        assert answer.ids == text[0, len(prompt) :].tolist()
        assert len(set(answer.ids)) > 4  # no loop that any model would fall into
