"""The built datasets: what they hold, that they are built once and whole, without network, and what is said when that fails."""

import dataclasses
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from splits import split_records

from alpaca_jax import records
from alpaca_jax.data import builder, example, instructions, origin, store
from alpaca_jax.data.config import DataConfig, SourceConfig
from alpaca_jax.errors import UserError
from alpaca_jax.tokenizer import Tokenizer
from tools.prove.tiny import write_tokenizer

RECORDS = [
    records.Record(f"Say {number}.", input="twice" * (number % 2), output=f"{number} " * (number % 7), provenance={"number": number})
    for number in range(20)
]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """A byte a token."""
    folder = tmp_path / "tokenizer"
    write_tokenizer(folder, ["</s>"], eos_token="</s>")
    return Tokenizer.load(folder)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    records.write(path, RECORDS)
    return path


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    return DataConfig(template="plain", heldout=5, max_length=64, cache=str(tmp_path / "cache"))


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("not expected to be called")


def test_the_examples_are_those_of_the_records(config: DataConfig, file: Path, tokenizer: Tokenizer) -> None:
    dataset = builder.load_examples(config, file, tokenizer)
    for split, expected in zip(("train", "heldout"), split_records(RECORDS, 5), strict=True):
        stored = dataset.examples[split]
        texts = [tokenizer.decode(made.ids, skip_special=False) for made in stored.take(range(len(stored)))]
        inputs = [f"{record.input}\n" if record.input else "" for record in expected]
        assert texts == [f"{record.instruction}\n{more}{record.output}</s>" for record, more in zip(expected, inputs, strict=True)]
        assert stored.lengths.tolist() == [len(made.ids) for made in stored.take(range(len(stored)))]
        assert stored.take([1])[0].ids.dtype == np.int32
        assert dataset.counts[split] == example.Counts(
            records=len(expected),
            kept=len(expected),
            empty_output=sum(not record.output for record in expected),
            tokens=int(stored.lengths.sum()),
            target_tokens=sum(len(record.output) + 1 for record in expected),
        )


def test_the_records_are_a_dataset_that_tfds_opens(config: DataConfig, file: Path, tokenizer: Tokenizer) -> None:
    builder.load_examples(config, file, tokenizer)
    (folder,) = Path(str(config.cache)).glob("records/*/instruction_records/2.0.0")
    opened = tfds.builder_from_directory(folder)
    assert {name: split.num_examples for name, split in opened.info.splits.items()} == {"train": 15, "heldout": 5}
    first, expected = opened.as_data_source("train")[0], split_records(RECORDS, 5)[0][0]
    assert {name: text.decode() for name, text in first.items()} == {
        "instruction": expected.instruction,
        "input": expected.input,
        "output": expected.output,
        "id": expected.id,
        "provenance": json.dumps(expected.provenance),
        "system": "",
        "turns": "[]",
    }
    assert dict(opened.info.metadata)["records"] == 20 and dict(opened.info.metadata)["with_input"] == 10


def test_records_come_back_from_the_dataset_as_they_went_in(tokenizer: Tokenizer, tmp_path: Path) -> None:
    talk = records.Record(
        "Hi", output="Hello.", system="Be kind.", turns=(("And now?", "Bye."), ("So soon?", "Yes.")), provenance={"by": "me"}
    )
    records.write(tmp_path / "talk.jsonl", [talk, *RECORDS])
    config = DataConfig(template="vicuna", cache=str(tmp_path / "cache"))
    builder.load_examples(config, tmp_path / "talk.jsonl", tokenizer)
    (folder,) = (tmp_path / "cache").glob("records/*/instruction_records/2.0.0")
    assert list(origin.find(f"tfds:{folder}").stream(Counter())) == [talk, *RECORDS]


def test_the_second_start_builds_nothing(config: DataConfig, file: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = builder.load_examples(config, file, tokenizer)
    monkeypatch.setattr(instructions, "prepare", refuse)
    monkeypatch.setattr(records, "stream", refuse)
    monkeypatch.setattr(Tokenizer, "encode_batch", refuse)
    second = builder.load_examples(config, file, tokenizer)
    assert (second.fingerprint, second.counts) == (first.fingerprint, first.counts)
    for split, stored in first.examples.items():
        again = second.examples[split].take(range(len(stored)))
        assert [made.ids.tolist() for made in again] == [made.ids.tolist() for made in stored.take(range(len(stored)))]


def test_whatever_decides_the_examples_is_in_the_fingerprint(file: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    other = tmp_path / "other.jsonl"
    records.write(other, RECORDS[1:])
    configs = [{}, {"heldout": 1}, {"max_length": 40}, {"truncation": "drop"}, {"template": "alpaca", "max_length": 300}]
    built = [builder.load_examples(DataConfig(**{"template": "plain", "cache": cache, **more}), file, tokenizer) for more in configs]
    built.append(builder.load_examples(DataConfig(template="plain", cache=cache), other, tokenizer))
    assert len({dataset.fingerprint for dataset in built}) == len(built)


def test_a_limit_trains_on_a_part_that_a_larger_one_holds(config: DataConfig, file: Path, tokenizer: Tokenizer) -> None:
    whole = builder.load_examples(config, file, tokenizer)
    texts: list[set[str]] = []
    for limit in (3, 7):
        limited = builder.load_examples(dataclasses.replace(config, limit=limit), file, tokenizer)
        assert limited.counts["train"].records == len(limited.examples["train"]) == limit
        assert limited.counts["heldout"] == whole.counts["heldout"] and limited.fingerprint != whole.fingerprint
        texts.append({tokenizer.decode(made.ids) for made in limited.examples["train"].take(range(limit))})
    assert texts[0] < texts[1]
    unlimited = builder.load_examples(dataclasses.replace(config, limit=15), file, tokenizer)  # as many as there are
    assert unlimited.fingerprint == whole.fingerprint
    assert len(list(Path(str(config.cache)).glob("records/*"))) == 1  # the dataset of the records is made once for all


def test_nothing_is_asked_of_the_network(
    config: DataConfig, file: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    builder.load_examples(config, file, tokenizer)
    assert capfd.readouterr() == ("", "")  # nor is anything said, so short a work it is


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("write() failed: No space left on device; at")]
)
def test_a_full_disk_is_said_and_leaves_nothing_behind(
    error: Exception, config: DataConfig, file: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> Any:
        raise error

    monkeypatch.setattr(store.np, "save", full)
    with pytest.raises(UserError, match=r"examples/\w+: the disk is full \([\d.]+ MB free\); make room, or give another data\.cache="):
        builder.load_examples(config, file, tokenizer)
    monkeypatch.undo()
    assert list((Path(str(config.cache)) / "examples").iterdir()) == []
    assert len(builder.load_examples(config, file, tokenizer).examples["train"]) == 15


def test_what_a_killed_process_left_is_removed_a_day_later(config: DataConfig, file: Path, tokenizer: Tokenizer) -> None:
    parent = Path(str(config.cache)) / "examples"
    old, new = parent / ".building-old", parent / ".building-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    builder.load_examples(config, file, tokenizer)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_quicker_process_is_no_failure(config: DataConfig, file: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = builder.load_examples(config, file, tokenizer)
    folder = first.folders["records"]
    other = folder.with_name("other")
    folder.rename(other)
    save = store.np.save

    def meanwhile(*args: Any) -> None:
        save(*args)
        shutil.copytree(other, folder, dirs_exist_ok=True)

    monkeypatch.setattr(store.np, "save", meanwhile)
    assert builder.load_examples(config, file, tokenizer).counts == first.counts
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, "other"}


def test_records_without_a_target_are_said(file: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = DataConfig(template="alpaca", max_length=64, cache=str(tmp_path / "cache"))
    with pytest.raises(
        UserError, match=r"none of the 20 records \(train\) makes an example of at most 64 tokens: 20 prompts leave no room"
    ):
        builder.load_examples(config, file, tokenizer)


def test_a_cache_that_cannot_be_written_is_said(config: DataConfig, file: Path, tokenizer: Tokenizer) -> None:
    Path(str(config.cache)).write_text("a file")
    with pytest.raises(UserError, match=r"can't be written .*; give another data\.cache="):
        builder.load_examples(config, file, tokenizer)


@pytest.mark.parametrize("name", ["counts.json", "train.ids", "train.offsets.npy"])
def test_a_damaged_store_is_named(config: DataConfig, file: Path, tokenizer: Tokenizer, name: str) -> None:
    folder = builder.load_examples(config, file, tokenizer).folders["records"]
    os.truncate(folder / name, (folder / name).stat().st_size - 8)
    with pytest.raises(UserError, match=rf"{folder} is damaged .*: delete it"):
        builder.load_examples(config, file, tokenizer)


def test_several_sources_become_one_mixture(file: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("a longer text " * 20)
    sources = {
        "talk": SourceConfig(records=str(file), epochs=2),
        "text": SourceConfig(records=str(tmp_path / "long.txt"), epochs=1, template="text", truncation="split"),
    }
    dataset = builder.load_examples(
        DataConfig(template="plain", sources=sources, max_length=64, cache=str(tmp_path / "cache")), "", tokenizer
    )
    assert dataset.mixture is dataset.examples["train"]
    assert [(row["source"], row["examples"], row["epochs"]) for row in dataset.mixture.table()] == [("talk", 20, 2.0), ("text", 5, 1.0)]
    assert set(dataset.folders) == {"talk", "text"} and dataset.counts["train"].records == 21
    assert len(set(dataset.mixture.chosen(0, 0).tolist())) == 25 and dataset.mixture.epoch_size == 45
    [piece] = dataset.examples["train"].take([24])
    assert piece.learnt[1:].all() and piece.ids[-1] == tokenizer.eos_id


def test_a_text_dataset_of_tfds_is_a_source(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real text, the licence of this project, a paragraph a document."""
    paragraphs = [part.strip() for part in (Path(__file__).parents[2] / "LICENSE").read_text().split("\n\n") if part.strip()]

    class LicenceText(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}), disable_shuffling=True
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            yield from ((number, {"text": text}) for number, text in enumerate(paragraphs))

    LicenceText.code_path = None
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    instructions.prepare(LicenceText(data_dir=str(tmp_path / "tfds"), file_format="array_record"))
    monkeypatch.setattr(tfds, "builder", lambda name: LicenceText(data_dir=str(tmp_path / "tfds"), file_format="array_record"))
    config = DataConfig(template="text", truncation="split", max_length=64, cache=str(tmp_path / "cache"))
    dataset = builder.load_examples(config, "tfds:licence_text", tokenizer)
    stored = dataset.examples["train"]
    pieces = stored.take(range(len(stored)))
    text = "".join(tokenizer.decode(made.ids[made.learnt]) for made in pieces)  # the pieces of a document overlap by one token
    assert text == "".join(text[1:] for text in paragraphs) and stored.lengths.max() == 64
    assert not (tmp_path / "cache" / "records").exists()  # it is a dataset already
    with pytest.raises(UserError, match="has no split test .*it has: train"):
        builder.load_examples(config, "tfds:licence_text#test", tokenizer)


def test_a_dataset_that_tfds_does_not_have_is_said(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match="TFDS knows no dataset no_such_dataset"):
        builder.load_examples(DataConfig(template="text", cache=str(tmp_path)), "tfds:no_such_dataset", tokenizer)


def test_an_empty_file_is_said(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"empty\.jsonl.* no record"):
        builder.load_examples(DataConfig(cache=str(tmp_path / "cache")), tmp_path / "empty.jsonl", tokenizer)


def test_building_needs_no_tensorflow() -> None:
    script = "import sys, alpaca_jax.data.builder; assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
