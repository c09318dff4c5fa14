"""A text gives the same ids before and behind a GGUF header, whatever kind of tokenizer it is; what GGUF has no name for is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import bytewise
import pytest
from random_models import byte_level

from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.gguf import tokenizer as gguf_tokenizer
from alpaca_jax.formats.gguf import vocabulary as gguf_vocabulary
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.tokenizer.backends import CONTROL, UNUSED, USER_DEFINED, Json, tokenizer_json

TEXTS = [
    "The quick brown fox's 12345 tails, and IT'S lazy",
    "  two  spaces\n\n\n and\tlines \r\n  end  ",
    "naïve café 你好 🦙 ² x=[1,2];  ",
    "<s>the fox<|im_end|> jumps<tool> over",
    "",
]
KINDS = [
    ("gpt2", {}, "gpt-2"),
    ("digits", {}, "smollm"),
    ("llama3", {"ignore_merges": True}, "llama-bpe"),
    ("llama3", {}, "dbrx"),
    ("qwen2", {}, "qwen2"),
]


def _same(own: Tokenizer, built: Tokenizer) -> None:
    for special in (True, False):
        for start in (True, False):
            for text in TEXTS:
                assert own.encode(text, start, special) == built.encode(text, start, special), text
    assert dataclasses.replace(own, backend=built.backend) == built
    assert own.backend.specials == built.backend.specials
    assert own.vocab_size == built.vocab_size


@pytest.mark.parametrize(("kind", "model", "name"), KINDS)
def test_byte_level_bpe(kind: str, model: dict[str, Any], name: str) -> None:
    own = byte_level(kind, **model)
    header = gguf_vocabulary.keys(own, 400, (1, 3, 2))
    assert header["tokenizer.ggml.pre"] == name
    built = gguf_tokenizer.build(header)
    _same(own, built)
    assert gguf_tokenizer.eos_ids(header, built) == (1, 2, 3)
    assert header["tokenizer.ggml.eom_token_id"] == 3
    for text in TEXTS:
        assert built.decode(own.encode(text)) == own.decode(own.encode(text))


def test_a_decomposed_letter_is_composed_as_qwen_does_it() -> None:
    for kind, composed in (("qwen2", True), ("llama3", False)):
        own = byte_level(kind)
        built = gguf_tokenizer.build(gguf_vocabulary.keys(own, 400, (1,)))
        assert built.encode("cafe\u0301") == own.encode("cafe\u0301")
        assert (built.encode("cafe\u0301") == built.encode("caf\u00e9")) is composed


def test_rows_without_a_token() -> None:
    own = byte_level()
    header = gguf_vocabulary.keys(own, 400, (1,))
    tokens, types = header["tokenizer.ggml.tokens"], header["tokenizer.ggml.token_type"]
    assert (len(tokens), tokens[399], types[399]) == (400, "[PAD399]", UNUSED)
    assert (types[tokens.index("<s>")], types[tokens.index("<tool>")]) == (CONTROL, USER_DEFINED)
    assert gguf_tokenizer.build(header).vocab_size == own.vocab_size < 400


def test_without_bos_or_with_padding() -> None:
    own = dataclasses.replace(byte_level(), bos_id=None, adds_bos=False, pad_id=3, chat_template=None)
    header = gguf_vocabulary.keys(own, 400, (1,))
    assert "tokenizer.ggml.bos_token_id" not in header
    _same(own, gguf_tokenizer.build(header))


def test_llama_3_adds_bos_where_the_header_does_not_say() -> None:
    for kind, added in (("llama3", True), ("gpt2", False)):
        header = gguf_vocabulary.keys(byte_level(kind, ignore_merges=kind == "llama3"), 400, (1,))
        del header["tokenizer.ggml.add_bos_token"]
        assert gguf_tokenizer.build(header).adds_bos is added


def test_smollm2(smollm2: Path) -> None:
    model = pretrained.open(smollm2)
    header = gguf_vocabulary.keys(model.tokenizer, model.architecture.vocab_size, model.eos_ids)
    assert header["tokenizer.ggml.pre"] == "smollm"
    _same(model.tokenizer, gguf_tokenizer.build(header))


@pytest.mark.parametrize("as_json", [False, True])
def test_sentencepiece(as_json: bool, data_dir: Path) -> None:
    file = data_dir / "llama_tokenizer.model"
    own = Tokenizer.load(file)
    if as_json:  # as a folder of transformers has it, here with a token more
        spec = json.loads(tokenizer_json(file.read_bytes()))
        more = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        spec["added_tokens"].append({"id": 32000, "content": "<pad>", **more})
        own = dataclasses.replace(own, backend=Json(json.dumps(spec)), pad_id=32000)
    header = gguf_vocabulary.keys(own, 32064, (2,))
    assert (header["tokenizer.ggml.model"], header["tokenizer.ggml.unknown_token_id"]) == ("llama", 0)
    built = gguf_tokenizer.build(header)
    reference = Tokenizer.load(file)
    for text in [*TEXTS, "  1234 é🦙 你好\n\n", "a\tb"]:
        for start in (True, False):
            assert built.encode(text, start) == own.encode(text, start) == reference.encode(text, start), text
    assert (built.bos_id, built.eos_id, built.pad_id, built.adds_bos) == (1, 2, 32000 if as_json else 2, True)
    assert built.vocab_size == own.vocab_size


def _changed(part: str, value: Any) -> Tokenizer:
    own = byte_level("llama3")
    spec = json.loads(own.backend.files()["tokenizer.json"])
    spec[part] = value
    return dataclasses.replace(own, backend=Json(json.dumps(spec)))


def test_what_llama_cpp_has_no_name_for(tiny_tokenizer: Path) -> None:
    byte = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": r"\d+"}, "behavior": "Isolated", "invert": False}
    refused = [
        (Tokenizer.load(tiny_tokenizer), "this one is WordLevel"),
        (_changed("pre_tokenizer", {"type": "Whitespace"}), "the pre-tokenizer Whitespace"),
        (_changed("pre_tokenizer", byte | {"add_prefix_space": True}), "a space before the text"),
        (_changed("pre_tokenizer", {"type": "Sequence", "pretokenizers": [split, byte | {"use_regex": False}]}), "regular expression"),
        (_changed("pre_tokenizer", {"type": "Sequence", "pretokenizers": [split, byte]}), "the pre-tokenizers"),
        (_changed("normalizer", {"type": "Lowercase"}), "Lowercase"),
        (byte_level("qwen2", ignore_merges=True), "ignore_merges"),
    ]
    for tokenizer, message in refused:
        with pytest.raises(UserError, match=f"{message}.*Hugging Face"):
            gguf_vocabulary.keys(tokenizer, 400, (1,))
    with pytest.raises(UserError, match=r"has \d+ tokens, the model 300 rows"):
        gguf_vocabulary.keys(byte_level(), 300, (1,))


def test_other_ids_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    built = byte_level("digits")
    monkeypatch.setattr(gguf_tokenizer, "build", lambda header: built)
    with pytest.raises(UserError, match="would give other ids"):
        gguf_vocabulary.keys(byte_level("gpt2"), 400, (1,))


def test_tokens_of_the_same_name() -> None:
    own = byte_level()
    spec = json.loads(own.backend.files()["tokenizer.json"])
    spec["added_tokens"].append({**spec["added_tokens"][-1], "id": 390, "content": "[PAD395]"})
    with pytest.raises(UserError, match=r"two tokens .* '\[PAD395\]'"):
        gguf_vocabulary.keys(dataclasses.replace(own, backend=Json(json.dumps(spec))), 400, (1,))


def test_a_vocabulary_without_merges_comes_back() -> None:
    own = bytewise.tokenizer()
    keys = {"tokenizer.ggml.model": "gpt2", **gguf_vocabulary.keys(own, own.vocab_size, (own.eos_id,))}
    keys = {key: value for key, value in keys.items() if value != []}  # a GGUF file holds no empty list
    again = gguf_tokenizer.build(keys)
    assert again.encode("Größe, 面積!") == own.encode("Größe, 面積!")
