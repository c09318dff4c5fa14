"""Random tiny models of every family, in memory, and small tokenizers of the kinds they use."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from alpaca_jax.formats import names
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.tensors import held
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import unflatten
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.tokenizer.backends import Json

SIZES: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "rope_theta": 1000.0,
    "max_positions": 256,
}
FAMILIES: dict[str, dict[str, Any]] = {  # additions to SIZES
    "llama": {"head_dim": 12, "tie_embeddings": True},
    "mistral": {"family": "mistral", "sliding_window": 100},
    "qwen2": {"family": "qwen2", "qkv_bias": True},
    "qwen3": {"family": "qwen3", "qk_norm": True, "head_dim": 128},  # the only size that transformers accepts from a GGUF file
    "smollm3": {"family": "smollm3", "nope_layers": (3,)},
}
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {"llama3": WORDS + r"\p{N}{1,3}" + SIGNS, "qwen2": WORDS + r"\p{N}" + SIGNS}
TEXT = [
    "the quick brown fox jumps over the lazy dog and it's 1969 again, 1234567 times over",
    "def f(x):\n    return x + 10\n\n\tThe end of the world's naïve café, übermut tut gut 你好 don't",
]


def byte_level(kind: str = "gpt2", size: int = 380, **model: Any) -> Tokenizer:
    """A small byte-level BPE that splits text like that of GPT-2, SmolLM ("digits"), Llama 3 or Qwen 2."""
    import tokenizers
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE(**model))
    before: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if kind == "digits" else []
    if kind in PATTERNS:
        before.append(pre_tokenizers.Split(Regex(PATTERNS[kind]), "isolated"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [*before, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind not in PATTERNS)]
    )
    if kind == "qwen2":
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|im_end|>", "<|eom_id|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXT, trainer)
    made.add_tokens([tokenizers.AddedToken("<tool>", normalized=False)])
    return Tokenizer(Json(made.to_str()), bos_id=0, eos_id=1, pad_id=1, adds_bos=True, chat_template="{{ messages[0].content }}")


def random_weights(architecture: Architecture) -> dict[tuple[str, ...], np.ndarray]:
    """Float32 weights by our path, scaled so that logits are as large as a trained model's."""
    generator = np.random.default_rng(0)
    shapes = {path: weight.shape for path, weight in names.weights(architecture).items()}
    return {
        path: (generator.normal(size=shape) * 0.12 + (1.0 if path[-1] == "scale" else 0.0)).astype(np.float32)
        for path, shape in shapes.items()
    }


def model_of(
    weights: Mapping[tuple[str, ...], np.ndarray], architecture: Architecture, tokenizer: Tokenizer, eos_ids: tuple[int, ...] = (1, 2)
) -> Pretrained:
    return Pretrained(
        architecture=architecture, tokenizer=tokenizer, read=held(weights), eos_ids=eos_ids, source="tiny", files=(), format="memory"
    )


def logits(model: Pretrained, tokens: list[int]) -> np.ndarray:
    """The logits of a model's weights in our own program, fp32 [T, V]."""
    read = {path: jax.numpy.asarray(model.read(path).astype(np.float32)) for path in names.weights(model.architecture)}
    params = unflatten(read)
    tokens_BT = jax.numpy.asarray([tokens], dtype=np.int32)
    positions_BT = jax.numpy.arange(len(tokens), dtype=np.int32)[None]
    hidden = llama.forward(model.architecture, params, tokens_BT, jax.numpy.ones_like(tokens_BT), positions_BT)
    return np.asarray(llama.logits(params, hidden))[0]
