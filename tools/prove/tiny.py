"""A tiny model, a byte tokenizer and short records, for proofs about something else."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SIZES = {
    "vocab_size": 258,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 8,
    "max_positions": 512,
    "tie_embeddings": True,
}


def write_tokenizer(folder: Path, specials: Sequence[str] = ("<s>", "</s>"), **settings: Any) -> None:
    """Writes a tokenizer whose tokens are the bytes and then the `specials`; `settings` are those of tokenizer_config.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    if settings.get("add_bos_token"):  # transformers goes by tokenizer.json alone
        bos = settings["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A $B", [(bos, tokenizer.token_to_id(bos))])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings or {"bos_token": "<s>", "eos_token": "</s>"}))


def record(number: int) -> dict[str, str]:
    """Record `number`: all differ, some have an input, and their lengths vary."""
    output = " ".join(str(number + step) for step in range(1 + number % 7))
    return {
        "instruction": f"Count on from {number}.",
        "input": "Take your time." if number % 5 < 2 else "",
        "output": f"{output}, and so on.",
    }


def overrides(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A nested mapping as the `key=value` arguments of a command line."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from overrides(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={'null' if value is None else value}"
