"""The files of a tokenizer's folder: which of them counts, and what is refused by its name."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizer_folders import FAST, LLAMA, MODEL, byte_level, changed, folder, sentencepiece_proto, unigram

from alpaca_jax.errors import UserError
from alpaca_jax.formats.gguf import vocabulary
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.tokenizer.backends import Json, SentencePiece, sentencepiece_model


def bytewise(path: Path, **files: Any) -> Path:
    return folder(path, byte_level(), **{"tokenizer_config": FAST, **files})


@pytest.mark.parametrize("none", [-1, None, [], [-1]])
def test_minus_one_and_null_are_no_token(none: Any, tmp_path: Path) -> None:
    ids = {"pad_token_id": none, "bos_token_id": none}
    path = bytewise(tmp_path, tokenizer_config={"eos_token": "</s>"}, config={**MODEL, **ids}, generation_config=ids)
    tokenizer = Tokenizer.load(path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.adds_bos, tokenizer.notes) == (None, 1, 1, False, ())


def test_the_tokenizer_comes_before_the_model_and_a_disagreement_is_said(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bytewise(tmp_path, config={**MODEL, "eos_token_id": 7}, generation_config={"bos_token_id": [5, 0]}))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)
    assert tokenizer.notes == (f"{tmp_path}: its eos is '</s>' (id 1) by its tokenizer; config.json names the id 7",)
    named_nowhere_else = bytewise(
        tmp_path, tokenizer_config={}, config={**MODEL, "eos_token_id": 7, "pad_token_id": 3}, generation_config={"eos_token_id": [1, 2]}
    )
    tokenizer = Tokenizer.load(named_nowhere_else)
    assert (tokenizer.eos_id, tokenizer.pad_id) == (1, 3)


def test_an_id_of_a_row_without_a_token_is_no_token(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bytewise(tmp_path, config={**MODEL, "pad_token_id": 450}))
    assert tokenizer.pad_id == 1 and "EOS pads" in tokenizer.notes[0]
    with pytest.raises(UserError, match=r"config\.json: eos_token_id is 450, for which the tokenizer has no token"):
        Tokenizer.load(bytewise(tmp_path, tokenizer_config={}, config={**MODEL, "eos_token_id": 450}))


def test_the_ids_of_a_tokenizer_model_come_before_those_of_the_model(tmp_path: Path) -> None:
    """The first conversions of LLaMA name no token, and wrong ids in config.json."""
    config = {"bos_token": "", "eos_token": "", "unk_token": "", "tokenizer_class": "LLaMATokenizer"}
    wrong = {**MODEL, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1}
    path = folder(tmp_path, sentencepiece_proto(), tokenizer_config=config, special_tokens_map={}, config=wrong)
    tokenizer = Tokenizer.load(path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.adds_bos) == (1, 2, 2, True)
    assert len(tokenizer.notes) == 2 and isinstance(tokenizer.backend, SentencePiece)


def test_tokens_of_all_files_are_exported(tmp_path: Path) -> None:
    path = folder(
        tmp_path / "a",
        sentencepiece_proto(),
        tokenizer_config=LLAMA,
        added_tokens={"[PAD]": 340},
        special_tokens_map={"pad_token": "[PAD]"},
    )
    tokenizer = Tokenizer.load(path)
    assert tokenizer.pad_id == 340 and tokenizer.vocab_size == 341
    tokenizer.save(tmp_path / "b")
    again = Tokenizer.load(tmp_path / "b")
    assert again.pad_id == 340 and again.encode("a[PAD] b", special=True) == tokenizer.encode("a[PAD] b", special=True)
    assert vocabulary.keys(tokenizer, 345, (2,))["tokenizer.ggml.tokens"][340] == "[PAD]"


def test_an_export_of_ours_is_read_from_its_tokenizer_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_proto())
    first = Tokenizer.load(tmp_path / "tokenizer.model")
    first.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert isinstance(again.backend, SentencePiece) and again.fingerprint == first.fingerprint
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**LLAMA, "legacy": False}))
    assert isinstance(Tokenizer.load(tmp_path).backend, Json)  # another's, which goes by the rules of transformers


def test_a_token_without_a_row_is_left_out_or_refused(tmp_path: Path) -> None:
    rows = Tokenizer.load(bytewise(tmp_path)).vocab_size
    size = {**MODEL, "vocab_size": rows}
    tokenizer = Tokenizer.load(bytewise(tmp_path, tokenizer_config={**FAST, "unk_token": "<unk>"}, config=size))
    assert tokenizer.vocab_size == rows and "'<unk>' is left out" in tokenizer.notes[0]
    with pytest.raises(UserError, match=r"its pad_token '\[PAD\]' is not a single token of its vocabulary"):
        Tokenizer.load(bytewise(tmp_path, tokenizer_config={**FAST, "pad_token": "[PAD]"}, config=size))


def test_whether_bos_is_added_follows_the_file_that_transformers_goes_by(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bytewise(tmp_path, tokenizer_config={**FAST, "add_bos_token": True}))
    assert not tokenizer.adds_bos and "add_bos_token: true has no effect" in tokenizer.notes[0]
    absent = {name: value for name, value in LLAMA.items() if name != "add_bos_token"}
    tokenizer = Tokenizer.load(folder(tmp_path / "llama", sentencepiece_proto(), tokenizer_config=absent))
    assert not tokenizer.adds_bos and "don't say add_bos_token: true" in tokenizer.notes[0]


@pytest.mark.parametrize("adds", [False, True])
def test_an_export_says_in_both_files_whether_bos_is_added(adds: bool, tmp_path: Path) -> None:
    tokenizer = dataclasses.replace(Tokenizer.load(bytewise(tmp_path / "a")), adds_bos=adds)
    tokenizer.save(tmp_path / "b")
    again = Tokenizer.load(tmp_path / "b")
    assert again.adds_bos == adds == (again.backend.leading_id == 0) and not again.notes
    # Earlier exports said it in tokenizer_config.json alone.
    (tmp_path / "b" / "tokenizer.json").write_text(byte_level())
    assert Tokenizer.load(tmp_path / "b").adds_bos == adds


DEEP = "[" * 5000 + "]" * 5000
BROKEN = [DEEP, '{"a": ' * 5000 + "1" + "}" * 5000, "[1]", "5", "null", "", '{"eos_token": "\\ud800"}', b'{"a": "\xff"}']


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_config", "special_tokens_map", "added_tokens", "config", "generation_config"])
def test_a_broken_file_is_named(name: str, tmp_path: Path) -> None:
    for content in BROKEN:
        path = bytewise(tmp_path)
        (path / f"{name}.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match=rf"{name}\.json"):
            Tokenizer.load(path)


ODD = {
    "tokenizer_config": [
        *(
            {name: value}
            for name in ("eos_token", "pad_token")
            for value in (5, [1], {}, {"content": 5}, {"content": ""}, {"content": "</s>", "lstrip": 5})
        ),
        *(
            {"added_tokens_decoder": each}
            for each in (5, "a", [1], {"a": "b"}, {"5": 5}, {"-1": {"content": "x"}}, {"9" * 30: {"content": "x"}})
        ),
        *({"added_tokens_decoder": {id: {"content": text}}} for id, text in (("320", ""), ("4000000000", "x"))),
        *({name: each} for name in ("additional_special_tokens", "extra_special_tokens") for each in (5, "abc", [5], [""], {"a": 5})),
        *({"chat_template": each} for each in (5, [5], [{}], {"a": 1}, [{"name": "default", "template": 5}])),
        {"add_bos_token": "yes"},
    ],
    "added_tokens": [{"x": 4_000_000_000}, {"": 320}, {"x": -1}, {"x": "a"}, {"x": 1.5}, {"x": None}, {"x": True}],
    "config": [
        {name: id}
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        for id in (4_000_000_000, 500, "x", [[1]], -2, True, 1.0, [1, 500])
    ],
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_token_is_refused_by_its_file(name: str, tmp_path: Path) -> None:
    for content in ODD[name]:
        before = {"tokenizer_config": FAST, "config": MODEL}
        path = bytewise(tmp_path, **{**before, name: {**before.get(name, {}), **content}})
        with pytest.raises(UserError, match=str(tmp_path)):
            Tokenizer.load(path)


def set_added(**token: Any) -> Any:
    return lambda spec: spec["added_tokens"][0].update(token)


def set_vocab(**tokens: Any) -> Any:
    return lambda spec: spec["model"]["vocab"].update(tokens)


JSON_CHANGES = [
    *(
        set_added(id=4_000_000_000),
        set_added(content=""),
        set_added(content=5),
        set_added(id="a"),
        set_vocab(zz=4_000_000_000),
        set_vocab(zz=-1),
    ),
    *(set_vocab(zz="a"), set_vocab(zz=True), lambda spec: spec["added_tokens"][0].pop("id"), lambda spec: spec.update(added_tokens="a")),
    lambda spec: spec["model"].update(vocab=dict.fromkeys(spec["model"]["vocab"], 0)),
    *(lambda spec, value=value: spec.update(model=value) for value in (None, 5, {}, {"vocab": None}, {"vocab": [1]})),
    *(lambda spec, value=value: spec["model"].update(merges=value) for value in (["a b c"], 5, [["q", "zzz"]])),
    lambda spec: spec.update(model={"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]] * 9}),
    *(
        lambda spec, value=value: spec.update(pre_tokenizer=value)
        for value in ({"type": "x"}, 5, {"type": "Split", "pattern": {"Regex": "("}})
    ),
    lambda spec: spec.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    lambda spec: spec.update(normalizer={"type": "Prepend", "prepend": "x" * 1_000_000}),
    lambda spec: spec.update(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "q", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    ),
]


def test_an_odd_tokenizer_json_is_refused(tmp_path: Path) -> None:
    for change in JSON_CHANGES:
        path = folder(tmp_path, changed(byte_level(), change), tokenizer_config=FAST)
        with pytest.raises(UserError, match=r"tokenizer\.json"):
            Tokenizer.load(path)
    assert Tokenizer.load(folder(tmp_path, unigram(), tokenizer_config=FAST)).vocab_size == 33


def altered(change: Any) -> bytes:
    model = sentencepiece_model(sentencepiece_proto())
    change(model)
    return model.SerializeToString()


def all_pieces(**fields: Any) -> Any:
    return lambda model: [setattr(piece, name, value) for piece in model.pieces for name, value in fields.items()]


MODELS = [
    *(b"", b"\0" * 999, b"\xff" * 999, b"a 5\n", b"\x0a\xff\xff\xff\xff\x0f", b"YQ== " + b"9" * 9999 + b"\n"),
    *(altered(all_pieces(piece="a")), altered(all_pieces(type=1)), altered(lambda model: model.ClearField("pieces"))),
    *(
        altered(lambda model: setattr(model.pieces[5], "piece", "")),
        altered(lambda model: setattr(model.pieces[300], "piece", "a" * 99_999)),
    ),
    altered(lambda model: setattr(model.normalizer_spec, "precompiled_charsmap", b"\x08\0\0\0" + b"\xff" * 64)),
]


@pytest.mark.parametrize("config", [LLAMA, {}])
def test_an_odd_tokenizer_model_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    for content in MODELS:
        path = folder(tmp_path, content, tokenizer_config=config)
        with pytest.raises(UserError, match=r"tokenizer\.model"):
            Tokenizer.load(path)


def test_a_chat_template_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (bytewise(tmp_path) / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"chat_template\.jinja is not UTF-8"):
        Tokenizer.load(tmp_path)
