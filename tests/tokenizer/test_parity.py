"""Ids against the AutoTokenizer of `transformers`, for folders as other tools leave them, before and after our export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_folders import CHATML, FAST, INST, LLAMA, MODEL, TRACKED, byte_level, changed, folder, sentencepiece_proto, unigram

from alpaca_jax.data import template
from alpaca_jax.data.example import Recipe, prompt_ids, tokenize
from alpaca_jax.records import Record
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.tokenizer.backends import tokenizer_json

transformers = pytest.importorskip("transformers", reason="transformers is installed on Python 3.11 only")
pytestmark = pytest.mark.filterwarnings("ignore")


def token(content: str, id: int | None = None, **flags: bool) -> dict[str, Any]:
    named = {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {**({} if id is None else {"id": id}), **named, **flags}


CHAT_TOKENS = {"340": token("<|im_start|>"), "341": token("<|im_end|>")}
METASPACE = {"type": "Metaspace", "replacement": "▁", "split": False}
BOS_FIRST = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
}


def bare(**config: Any) -> Callable[[Path], Path]:
    return lambda path: folder(path, sentencepiece_proto(), tokenizer_config={**LLAMA, "chat_template": INST, **config})


def llama_json(config: dict[str, Any], **spec: Any) -> Callable[[Path], Path]:
    made = changed(tokenizer_json(sentencepiece_proto()), lambda each: each.update(spec))
    return lambda path: folder(path, made, tokenizer_config={**LLAMA, "chat_template": INST, **config})


def byte_json(change: Callable[[dict[str, Any]], Any] = lambda spec: None, **files: Any) -> Callable[[Path], Path]:
    config = {**FAST, "chat_template": TRACKED, **files.pop("tokenizer_config", {})}
    return lambda path: folder(path, changed(byte_level(), change), tokenizer_config=config, **files)


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "a bare model, legacy absent": bare(),
    "a bare model, legacy": bare(legacy=True),
    "a bare model, not legacy": bare(legacy=False),
    "a bare model, no BOS": bare(add_bos_token=False),
    "a bare model that does not name its tokens": lambda path: folder(
        path, sentencepiece_proto(), tokenizer_config={"tokenizer_class": "LlamaTokenizer", "chat_template": INST}
    ),
    "a bare model, no prefix": bare(add_prefix_space=False),
    "a decoder of added tokens": bare(added_tokens_decoder=CHAT_TOKENS, chat_template=CHATML),
    "a decoder with gaps": bare(added_tokens_decoder={"345": token("<|im_start|>"), "349": token("<|im_end|>")}, chat_template=CHATML),
    "chat tokens that are not special": bare(
        added_tokens_decoder={id: each | {"special": False} for id, each in CHAT_TOKENS.items()}, chat_template=CHATML
    ),
    "added tokens in a file": lambda path: folder(
        path,
        sentencepiece_proto(),
        tokenizer_config={**LLAMA, "chat_template": CHATML, "pad_token": None},
        added_tokens={"<|im_start|>": 340, "<|im_end|>": 341, "[PAD]": 342},
        special_tokens_map={
            "pad_token": "[PAD]",
            "bos_token": {"content": "<s>", "normalized": True},
            "additional_special_tokens": ["<|im_end|>"],
        },
    ),
    "a map alone": lambda path: folder(
        path,
        sentencepiece_proto(),
        tokenizer_config={**LLAMA, "chat_template": INST},
        special_tokens_map={"pad_token": "<pad>", "additional_special_tokens": ["<x>"]},
    ),
    "LLaMA's own json": llama_json({}),
    "LLaMA's own json, legacy": llama_json({"legacy": True}),
    "LLaMA's own json, as it is": llama_json({"tokenizer_class": "PreTrainedTokenizerFast"}),
    "LLaMA's own json of Mistral": lambda path: folder(
        path,
        tokenizer_json(sentencepiece_proto()),
        tokenizer_config={**LLAMA, "legacy": False, "chat_template": INST},
        config={**MODEL, "model_type": "mistral"},
    ),
    "Code Llama": llama_json({"tokenizer_class": "CodeLlamaTokenizer", "legacy": True}),
    "Code Llama, a bare model": bare(tokenizer_class="CodeLlamaTokenizer"),
    "Metaspace, first": llama_json(FAST, normalizer=None, pre_tokenizer=METASPACE | {"prepend_scheme": "first"}),
    "Metaspace, always": llama_json(FAST, normalizer=None, pre_tokenizer=METASPACE | {"prepend_scheme": "always"}),
    "Metaspace of old": llama_json(
        FAST, normalizer=None, pre_tokenizer={"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    ),
    "bytes": byte_json(),
    "bytes of LLaMA 3": byte_json(
        lambda spec: spec.update(post_processor=BOS_FIRST), tokenizer_config={"tokenizer_class": "LlamaTokenizerFast"}
    ),
    "bytes that ignore add_bos_token": byte_json(
        lambda spec: spec.update(post_processor=BOS_FIRST), tokenizer_config={"add_bos_token": False}
    ),
    "bytes with a prefix": byte_json(lambda spec: spec["pre_tokenizer"].update(add_prefix_space=True)),
    "bytes with added tokens": byte_json(
        tokenizer_config={"pad_token": "[PAD]", "unk_token": "<unk>", "additional_special_tokens": ["<x>"]}
    ),
    "tokens that strip": byte_json(
        lambda spec: spec.update(
            added_tokens=[token("<s>", 0, rstrip=True), token("</s>", 1, lstrip=True), token("<x>", 400, special=False)]
        )
    ),
    "tokens that are words": byte_json(
        tokenizer_config={
            "added_tokens_decoder": {"320": token("lake", single_word=True, special=False), "321": token("Ä", normalized=True)}
        }
    ),
    "unigram": lambda path: folder(path, unigram(), tokenizer_config={**FAST, "unk_token": "<unk>", "chat_template": INST}),
}
CASES = list(FOLDERS)
TURNS = [("Where is the lake?", "By the town."), ("How far?", "A mile. ")]
TEXT = st.lists(
    st.sampled_from(["<s>", "</s>", "<|im_start|>", "<|im_end|>", "[PAD]", "<x>", "lake", " ", "  ", "\n", "the", "Ä", "é🦙", "▁", "a"]),
    max_size=8,
).map("".join)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Any, Any, Any]]:
    """Ours and theirs of a folder, and ours and theirs of our export of it."""
    made: dict[str, tuple[Any, Any, Any, Any]] = {}

    def open(name: str) -> tuple[Any, Any, Any, Any]:
        if name not in made:
            path = FOLDERS[name](tmp_path_factory.mktemp("tokenizer") / "before")
            ours = Tokenizer.load(path)
            export = folder(path.with_name("after"), "")
            ours.save(export)
            both = (path, export)
            made[name] = tuple(each for one in both for each in (Tokenizer.load(one), transformers.AutoTokenizer.from_pretrained(one)))  # type: ignore[assignment]
        return made[name]

    return open


@pytest.mark.parametrize("name", CASES)
def test_ids_equal_those_of_transformers_before_and_after_an_export(name: str, opened: Any) -> None:
    ours, theirs, exported, theirs_exported = opened(name)
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.pad_id == (ours.eos_id if theirs.pad_token_id is None else theirs.pad_token_id)
    assert ours.vocab_size == len(theirs) or "gap" in name or "strip" in name

    @settings(max_examples=25, deadline=None, database=None, derandomize=True)
    @given(TEXT)
    def check(text: str) -> None:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text, special=True) == ids == exported.encode(text, special=True)
        assert theirs_exported(text, add_special_tokens=False)["input_ids"] == ids
        whole = [ours.bos_id] * ours.adds_bos + ids
        assert theirs(text)["input_ids"] == whole == theirs_exported(text)["input_ids"]

    check()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("format", ["chat", "alpaca"])
def test_a_chat_is_learnt_and_asked_for_with_the_ids_of_transformers(name: str, format: str, opened: Any) -> None:
    ours, theirs, exported, _ = opened(name)
    made = template.get(format, ours)
    messages = [{"role": role, "content": text} for turn in TURNS for role, text in zip(("user", "assistant"), turn, strict=True)]
    record = Record(TURNS[0][0], "", TURNS[0][1], turns=tuple(TURNS[1:]))
    (example,) = tokenize([record], Recipe(made, ours, 999))[0].take([0])
    whole = theirs.apply_chat_template(messages)["input_ids"]
    if format == "chat":
        assert example.ids.tolist() == whole[: len(example.ids)]
        assert theirs.decode(whole[len(example.ids) :]).strip() == ""  # a line's end behind the last token
        assert exported.apply_chat(messages, add_generation_prompt=False) == whole
        end = theirs.convert_tokens_to_ids("<|im_end|>" if theirs.chat_template == CHATML else "</s>")
        last = [id for id, learnt in zip(example.ids.tolist(), example.learnt, strict=True) if learnt and id == end]
        assert len(last) == len(TURNS) and made.end_id == end
    asked = theirs.apply_chat_template(messages[:1], chat_template=made.chat_template(), add_generation_prompt=True)["input_ids"]
    assert prompt_ids(made, ours, TURNS[0][0]) == asked


def test_generation_blocks_are_the_mask(opened: Any) -> None:
    ours, theirs, exported, _ = opened("bytes")
    messages = [{"role": role, "content": text} for turn in TURNS for role, text in zip(("user", "assistant"), turn, strict=True)]
    expected = theirs.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    record = Record(TURNS[0][0], "", TURNS[0][1], turns=tuple(TURNS[1:]))
    for tokenizer in (ours, exported):
        (example,) = tokenize([record], Recipe(template.get("chat", tokenizer), tokenizer, 999))[0].take([0])
        assert example.ids.tolist() == expected["input_ids"]
        assert example.learnt.astype(int).tolist() == expected["assistant_masks"]
    assert ours.decode(example.ids[example.learnt], skip_special=False) == "By the town.</s>\nA mile. </s>\n"


FEATURES = [
    "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ 'é<' | tojson(ensure_ascii=True, separators=(',', ':'), sort_keys=True) }}",
    "{{ strftime_now('%Y') }}{{ tools is none }}{{ documents is none }}{{ unk_token is defined }}{{ pad_token is defined and pad_token }}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ loop.index ~ loop.length ~ m.content }}{% break %}{% endfor %}",
    "{% set ns = namespace(n=0, seen=[]) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.seen = ns.seen + [m.role] %}"
    "{% endfor %}{{ ns.n }}{{ ns.seen | join(', ') }}",
    "{% macro show(m, sep='|') %}{{ m.role.upper() + sep + m.content.split(' ')[0].strip('W') }}{% endmacro %}"
    "{{ show(messages[0]) }}{{ show(messages[-1], sep='-') }}",
    "{{ messages[1:] | map(attribute='content') | list }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ '%s:%5d' | format('a', 3) }}{{ '{:>5}'.format('a') }}{{ 'a\nb' | indent(4) }}{{ 'x'.center(5, '*') }}{{ messages[::-1][0].role }}",
    "{{ dict(a=1).items() | list }}{{ {'b': 1}.get('c', 2) }}{{ 'a' is string }}{{ messages[0].none_such is defined }}{{ 2 ** 10 }}",
    "{{ 'abc' | replace('b', 'x') | upper }}{{ 7 // 2 }}{{ '%d' % 3 }}{{ [1, 2] * 2 }}{{ ('a', 'b') }}{{ not none }}{{ 1.5 | round }}",
    "{% generation %}{{ messages[1].content }}{%- endgeneration -%}{{ messages[1].reasoning_content }}{{ messages[1].thinking }}",
]


@pytest.mark.parametrize("jinja", FEATURES)
def test_a_template_renders_as_in_transformers(jinja: str, opened: Any) -> None:
    ours, theirs, *_ = opened("bytes with added tokens")
    messages = [
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": "Here <é>.", "reasoning": "Hm", "tool_calls": None},
        {"role": "user", "content": "x"},
    ]
    expected = theirs.apply_chat_template(messages, chat_template=jinja, tokenize=False)
    assert ours.with_chat_template(jinja).render_chat(messages, add_generation_prompt=False) == expected


def test_where_settings_are_absent_a_model_file_is_read_as_sentencepiece_reads_it(tmp_path: Path) -> None:
    """There, transformers would put no space before the first word, which no LLaMA was trained with."""
    import sentencepiece

    path = folder(tmp_path, sentencepiece_proto(), added_tokens={"<x>": 340})
    ours, processor = Tokenizer.load(path), sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_proto())
    for text in ("The lake", " two  spaces ", "é🦙"):
        assert ours.encode(text) == processor.encode(text)
    assert ours.encode("<x>", special=True) == [340] and ours.adds_bos and MODEL["vocab_size"] > ours.vocab_size
