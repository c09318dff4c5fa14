"""The peer: the same LLaMA in transformers + torch, and its rows of padded examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers

from alpaca_jax.data.example import Example
from alpaca_jax.formats import names
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import flatten

IGNORED = -100  # the target that torch's cross-entropy skips
Microbatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # ids, attention mask, labels, all [rows, length]


def llama(architecture: Architecture, params: Mapping[str, Any] | None = None, **settings: Any) -> transformers.LlamaForCausalLM:
    """Their model of these sizes, in training mode, with our `params` (None: random ones)."""
    a = architecture
    config = transformers.LlamaConfig(
        vocab_size=a.vocab_size,
        hidden_size=a.hidden_size,
        intermediate_size=a.intermediate_size,
        num_hidden_layers=a.num_layers,
        num_attention_heads=a.num_heads,
        num_key_value_heads=a.num_kv_heads,
        head_dim=a.head_dim,
        rms_norm_eps=a.norm_eps,
        max_position_embeddings=a.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": a.rope_theta},
        tie_word_embeddings=a.tie_embeddings,
        use_cache=False,
        attn_implementation="sdpa",
        **settings,
    )
    model = transformers.LlamaForCausalLM(config).float().train()
    if params is not None:
        model.load_state_dict(state_dict(architecture, params), strict=not a.tie_embeddings)
    return model


def state_dict(architecture: Architecture, params: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Our params under their names and in their layout, fp32."""
    state: dict[str, torch.Tensor] = {}
    ours_by_path = flatten(params)
    for path, weight in names.weights(architecture).items():
        ours = np.asarray(ours_by_path[path], np.float32)
        layers = ours if weight.name.stacked else ours[None]
        for (name, _), layer in zip(weight.tensors("huggingface"), layers, strict=True):
            state[name] = torch.from_numpy(np.ascontiguousarray(weight.name.to_theirs(layer)).copy())
    return state


def padded(examples: Sequence[Example], length: int | None = None, device: str = "cpu") -> Microbatch:
    """The examples as rows of `length` slots (None: the longest of them), with labels for target tokens."""
    length = length or max(len(example.ids) for example in examples)
    ids = np.zeros((len(examples), length), np.int64)
    mask, labels = np.zeros_like(ids), np.full_like(ids, IGNORED)
    for row, example in enumerate(examples):
        size = len(example.ids)
        ids[row, :size], mask[row, :size] = example.ids, 1
        labels[row, :size] = np.where(example.learnt, example.ids, IGNORED)
    return tuple(torch.from_numpy(part).to(device) for part in (ids, mask, labels))


def summed_loss(model: transformers.LlamaForCausalLM, microbatch: Microbatch) -> torch.Tensor:
    """The summed cross-entropy of the target tokens, each predicted from those before it."""
    ids, mask, labels = microbatch
    scores = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    return torch.nn.functional.cross_entropy(scores.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")
