"""Folders with tiny tokenizers of each kind, as other tools leave them."""

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXTS = [
    "The lake is by the town.",
    "How far is it? A mile.",
    "  two   spaces",
    "Ein Lama, two llamas: 12 kg.",
    "the the lake town mile far is",
] * 20
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
TRACKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<s>assistant\n' }}{% generation %}{{ m.content + '</s>\n' }}{% endgeneration %}"
    "{% else %}{{ '<s>' + m.role + '\n' + m.content + '</s>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
MODEL = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 500}
LLAMA = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}


@functools.cache
def sentencepiece_proto() -> bytes:
    """A BPE model with a token for each byte, as LLaMA's."""
    import sentencepiece

    made = io.BytesIO()
    options = {"vocab_size": 340, "model_type": "bpe", "byte_fallback": True, "remove_extra_whitespaces": False}
    silent = {"normalization_rule_name": "identity", "hard_vocab_limit": False, "minloglevel": 3}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=made, **options, **silent)
    return made.getvalue()


@functools.cache
def byte_level() -> str:
    """A tokenizer.json of byte-level BPE."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    return made.to_str()


def unigram() -> str:
    """A tokenizer.json of a unigram model, with normalizers."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -2.0), ("▁the", -3.0), ("lake", -3.0), ("▁is", -3.5)]
    made = tokenizers.Tokenizer(models.Unigram([*pieces, *((chr(code), -8.0) for code in range(97, 123))], 0, False))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("''", '"')])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made.to_str()


def changed(text: str, change: Callable[[dict[str, Any]], Any]) -> str:
    """A tokenizer.json after `change` has edited what it says."""
    spec = json.loads(text)
    change(spec)
    return json.dumps(spec)


def folder(path: Path, vocabulary: str | bytes, **files: Any) -> Path:
    """Writes a folder with this tokenizer.json (a text) or tokenizer.model (bytes), and NAME.json for each of `files`."""
    path.mkdir(parents=True, exist_ok=True)
    if isinstance(vocabulary, bytes):
        (path / "tokenizer.model").write_bytes(vocabulary)
    else:
        (path / "tokenizer.json").write_text(vocabulary)
    for name, content in {"config": MODEL, **files}.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path
