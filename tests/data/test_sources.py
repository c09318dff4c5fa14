"""The records of a run: surveyed once, split with copies on one side, in the template that follows them; earlier runs keep theirs."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpaca_jax import records
from alpaca_jax.data import builder, origin, remarks, sources, survey
from alpaca_jax.data.config import DataConfig, SourceConfig
from alpaca_jax.errors import UserError
from alpaca_jax.tokenizer import Tokenizer
from tools.prove.tiny import write_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INSTRUCTION = {"instruction": "Say hi.", "output": "hi"}
TALK = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
TEXT = {"text": "A text."}


def tokenizer(folder: Path, *specials: str, chat_template: str | None = None) -> Tokenizer:
    write_tokenizer(folder / "tokenizer", ["</s>", *specials], eos_token="</s>")
    made = Tokenizer.load(folder / "tokenizer")
    return made.with_chat_template(chat_template) if chat_template else made


def write(path: Path, *items: Any) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def numbered(*numbers: int, **more: Any) -> list[dict[str, Any]]:
    return [{"instruction": f"Say {number}.", "output": str(number)} | more for number in numbers]


def config(folder: Path, **more: Any) -> DataConfig:
    return DataConfig(**{"cache": str(folder / "cache"), "max_length": 400} | more)


def texts(data: builder.Dataset, split: str, made: Tokenizer) -> list[str]:
    return [made.decode(each.ids) for each in data.examples[split].take(range(len(data.examples[split])))]


@pytest.mark.parametrize(
    ("items", "specials", "chat_template", "expected"),
    [
        ([INSTRUCTION], (), None, "alpaca"),
        ([INSTRUCTION], ("<|im_start|>", "<|im_end|>"), CHATML, "alpaca"),
        ([INSTRUCTION, INSTRUCTION, TALK], ("<|im_start|>", "<|im_end|>"), CHATML, "alpaca"),
        ([INSTRUCTION, TALK, TALK], ("<|im_start|>", "<|im_end|>"), CHATML, "chat"),
        ([TALK, TEXT], ("<|im_start|>", "<|im_end|>"), CHATML, "chat"),
        ([TALK], ("<|im_start|>", "<|im_end|>"), None, "chatml"),
        ([TALK], ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), None, "llama3"),
        ([TALK], (), None, "vicuna"),
        ([TEXT], (), CHATML, "text"),
    ],
)
def test_the_template_follows_the_records(tmp_path: Path, items: Any, specials: Any, chat_template: Any, expected: str) -> None:
    made = tokenizer(tmp_path, *specials, chat_template=chat_template)
    path = write(tmp_path / "r.jsonl", *items)
    assert sources.settled(config(tmp_path), path, made).template == expected
    if TEXT not in items or expected == "text":
        auto, named = (builder.load_examples(config(tmp_path, template=name), path, made) for name in ("auto", expected))
        assert auto.fingerprint == named.fingerprint and remarks.templates(auto) == f"template {expected}"


def test_each_source_has_its_own_template_and_a_run_of_one_kind_its_settings_of_before(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, "<|im_start|>", "<|im_end|>", chat_template=CHATML)
    paths = {name: str(write(tmp_path / f"{name}.jsonl", item)) for name, item in (("a", INSTRUCTION), ("b", TALK), ("c", INSTRUCTION))}
    mixed = config(tmp_path, sources={name: SourceConfig(records=path, epochs=1) for name, path in paths.items()})
    settled = sources.settled(mixed, "", made)
    assert settled.template == "alpaca" and {name: source.template for name, source in settled.sources.items()} == {
        "a": None,
        "b": "chat",
        "c": None,
    }
    assert builder.load_examples(settled, "", made).fingerprint == builder.load_examples(mixed, "", made).fingerprint
    assert sources.settled(settled, "", made) == settled
    same = config(tmp_path, sources={name: SourceConfig(records=paths[name], epochs=1) for name in ("a", "c")})
    assert sources.settled(same, "", made) == config(tmp_path, template="alpaca", sources=same.sources)


def test_copies_stand_on_one_side_and_are_counted(tmp_path: Path) -> None:
    made = tokenizer(tmp_path)
    path = write(tmp_path / "r.jsonl", *(numbered(0, 1, 2) * 3), *(item | {"id": str(place)} for place, item in enumerate(numbered(0, 3))))
    data = builder.load_examples(config(tmp_path, heldout=2), path, made)
    train, heldout = (set(texts(data, split, made)) for split in ("train", "heldout"))
    assert train and heldout and not train & heldout
    said = [remark for remark in remarks.of(data) if "copies of earlier ones" in remark.text]
    assert [remark.text for remark in said] == ["7 of 11 (63.6%) records are copies of earlier ones, and stand on one side of the split"]
    assert said[0].warning


def test_copies_across_sources_stand_on_one_side(tmp_path: Path) -> None:
    made = tokenizer(tmp_path)
    paths = {"a": write(tmp_path / "a.jsonl", *numbered(*range(9))), "b": write(tmp_path / "b.jsonl", *numbered(*range(4, 20)))}
    for heldout, weight in ((3, {"weight": 0.5}), (0, {"epochs": 1})):
        each = {name: SourceConfig(records=str(path), **weight) for name, path in paths.items()}
        data = builder.load_examples(config(tmp_path, heldout=heldout, sources=each, template="plain"), "", made)
        if heldout:
            train, held = (set(texts(data, split, made)) for split in ("train", "heldout"))
            assert not train & held and len(held) >= 3
            [said] = [remark.text for remark in remarks.of(data) if "another source holds the same texts out" in remark.text]
            assert (
                said.startswith(f"{sum(int(s.left_out.sum()) for s in data.sources.values() if s.left_out is not None):,} records of ")
                or said
            )
        else:
            assert all(source.left_out is None for source in data.sources.values())


def test_unique_records_keep_the_split_the_key_and_the_numbers_of_an_earlier_version(tmp_path: Path) -> None:
    made = tokenizer(tmp_path)
    path = write(tmp_path / "r.jsonl", *numbered(*range(20)), *numbered(1, 2))
    found = origin.find(path)
    ranks = np.array([records.rank(record) for record in found.stream(Counter())], np.uint64)
    for heldout in (0, 5):
        data = builder.load_examples(config(tmp_path, heldout=heldout, template="plain"), path, made)
        source = data.sources["records"]
        assert source.key() == {} and not source.moved
        if heldout:
            assert (source.heldout == records.heldout_ids(ranks, heldout)).all() and (
                origin.held_out(found, heldout) == source.heldout
            ).all()
        key = {"records": found.fingerprint, "heldout": heldout, "version": "2.0.0"} | {
            "version": 1,
            "tokenizer": made.fingerprint,
            "template": source and builder.template.get("plain", made).chat_template(),
            "max_length": 400,
            "truncation": "truncate",
        }
        assert data.folders["records"].name == origin.digest(key)


def test_records_that_are_read_anew_are_not_taken_from_an_earlier_version_s_cache(tmp_path: Path) -> None:
    made = tokenizer(tmp_path)
    for number, item in enumerate(
        [
            INSTRUCTION | {"history": [["Q", "A"]]},
            {"messages": [*TALK["messages"], {"role": "user", "content": "?"}, {"role": "assistant", "content": "!", "weight": 0}]},
        ]
    ):
        [source] = sources.find(config(tmp_path), write(tmp_path / f"{number}.jsonl", item), made).values()
        assert source.key() == {"reading": sources.CHANGED}
    [torn] = sources.find(config(tmp_path, heldout=1), write(tmp_path / "r.jsonl", *numbered(1, 1, 2, 2)), made).values()
    assert torn.moved and torn.key() and torn.heldout is not None and torn.heldout.sum() == 2


def test_a_survey_is_made_once_and_a_damaged_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = origin.find(write(tmp_path / "r.jsonl", INSTRUCTION, TALK, TEXT, INSTRUCTION | {"zz": 1}))
    first = survey.of(found, tmp_path)
    assert first.copies == 1 and first.unknown_keys == {"zz": 1} and first.counted["conversations"] == first.counted["documents"] == 1
    monkeypatch.setattr(records, "stream", None)
    again = survey.of(found, tmp_path)
    assert (again.texts == first.texts).all() and (again.ranks == first.ranks).all() and again.counted == first.counted
    [folder] = (tmp_path / "surveys").iterdir()
    (folder / "texts").write_bytes(b"12345678")
    with pytest.raises(UserError, match=r"surveys/\w+ is damaged .*: delete it"):
        survey.of(found, tmp_path)


def test_an_answer_that_is_only_shown_is_not_learnt(tmp_path: Path) -> None:
    made = tokenizer(tmp_path)
    said = [("user", "Q"), ("assistant", "One", 0), ("user", "P"), ("assistant", "Two", 1)]
    item = {"messages": [{"role": role, "content": text} | ({"weight": more[0]} if more else {}) for role, text, *more in said]}
    data = builder.load_examples(config(tmp_path, template="plain"), write(tmp_path / "r.jsonl", item), made)
    [example] = data.examples["train"].take([0])
    assert made.decode(example.ids, skip_special=False) == "Q\nOne</s>\nP\nTwo</s>"
    assert made.decode(example.ids[example.learnt], skip_special=False) == "Two</s>"
    assert data.counts["train"].target_tokens == 4
    assert [remark.text for remark in remarks.of(data)] == ["1 answers are shown and not learnt, as their records say"]
    [folder] = (tmp_path / "cache").glob("records/*/instruction_records/2.0.0")
    assert list(origin.find(f"tfds:{folder}").stream(Counter())) == list(origin.find(tmp_path / "r.jsonl").stream(Counter()))
    none = write(tmp_path / "none.jsonl", {"messages": [TALK["messages"][0], TALK["messages"][1] | {"weight": 0}]}, INSTRUCTION)
    assert builder.load_examples(config(tmp_path, template="plain"), none, made).counts["train"].no_target == 1


THINKING = CHATML.replace(
    "{{ m.content }}", "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
)


def test_reasoning_is_learnt_as_the_template_renders_it_or_refused(tmp_path: Path) -> None:
    item = {"messages": [TALK["messages"][0], TALK["messages"][1] | {"reasoning_content": "Hm."}]}
    path = write(tmp_path / "r.jsonl", TALK, item)
    made = tokenizer(tmp_path, "<|im_start|>", "<|im_end|>", chat_template=THINKING)
    data = builder.load_examples(config(tmp_path), path, made)
    learnt = [made.decode(each.ids[each.learnt], skip_special=False) for each in data.examples["train"].take([0, 1])]
    assert learnt == ["Ho<|im_end|>", "<think>Hm.</think>Ho<|im_end|>"]
    for name in ("chatml", "alpaca"):
        with pytest.raises(UserError, match=rf"r\.jsonl, line 2: data\.template={name} does not write the reasoning \(reasoning_content\)"):
            builder.load_examples(config(tmp_path, template=name), path, made)


def test_what_is_lost_is_said_and_warned_of_above_a_hundredth(tmp_path: Path) -> None:
    made = tokenizer(tmp_path)
    long = [{"instruction": "Q" * 90, "output": "A"}, {"instruction": "Q", "output": "A" * 90}]
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "notes.md").write_text("not a record")
    write(folder / "r.jsonl", *numbered(*range(300)), *long, {"broken": 1}, INSTRUCTION | {"zz": 1, "hint": 2}, INSTRUCTION | {"zz": 1})
    data = builder.load_examples(config(tmp_path, template="plain", max_length=60, on_error="skip"), folder, made)
    assert [(remark.text, remark.warning) for remark in remarks.of(data)] == [
        ("1 of 304 (0.3%) records are cut at data.max_length, and lose their end", False),
        ("1 of 304 (0.3%) records teach nothing: their prompt alone fills data.max_length, or no answer in them is learnt", False),
        ("1 of 305 (0.3%) records are broken, and left out", False),
        ("1 of 304 (0.3%) records are copies of earlier ones", False),
        ("keys that are not read: zz (2), hint (1)", False),
        ("files in the folder of the records that are not read: notes.md", False),
    ]
    few = builder.load_examples(
        config(tmp_path, template="plain", max_length=60, truncation="drop"), write(tmp_path / "f.jsonl", *numbered(1), *long), made
    )
    assert [(remark.text.split(") ")[1], remark.warning) for remark in remarks.of(few)] == [
        ("records are dropped as longer than data.max_length", True),
        ("records teach nothing: their prompt alone fills data.max_length, or no answer in them is learnt", True),
    ]


@pytest.mark.parametrize("more", ["system", "history", "tool_calls", "images", "chosen"])
def test_a_tfds_dataset_whose_meaning_would_be_lost_is_refused(more: str) -> None:
    assert origin._ignored({"instruction", "output", "id", more}) == more
    assert origin._ignored({"instruction", "output", "id", "source", "text"}) == ""
    assert origin._ignored({"instruction", "turns", "provenance", "system"}) == ""  # of this package
