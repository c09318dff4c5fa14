"""Random tiny LLaMA models created and saved by `transformers`."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def make_llama(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Any:
    """`make(**config)`: a folder saved by `transformers` (with a tokenizer), and its model in fp32."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def make(shard: str = "5GB", **changes: Any) -> tuple[Path, Any]:
        sizes = {
            "vocab_size": 96,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,  # not hidden_size / heads, to catch code that assumes it
            "max_position_embeddings": 128,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
            "rms_norm_eps": 1e-6,
            "initializer_range": 0.2,
        }
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **changes})).eval()
        for name, weight in model.named_parameters():
            if "norm" in name:  # they are initialized to one, which would hide mistakes
                torch.nn.init.uniform_(weight, 0.5, 1.5)
        folder = tmp_path_factory.mktemp("llama")
        model.save_pretrained(folder, max_shard_size=shard)
        for file in tiny_tokenizer.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder, model

    return make
