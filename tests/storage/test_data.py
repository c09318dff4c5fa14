"""Built datasets on an object store: copies for machines without a disk in common."""

import numpy as np
import pytest
from training import make_files

from alpaca_jax import records, storage
from alpaca_jax.data import builder, origin
from alpaca_jax.data.config import DataConfig
from alpaca_jax.errors import UserError
from alpaca_jax.tokenizer import Tokenizer

COUNTED = "counts.json"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Makes this process one on another machine, with an empty home."""

    def on(name):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setenv("HOME", str(tmp_path / name))

    return on


def test_what_one_machine_built_another_takes(gs, tmp_path, host, monkeypatch):
    files = make_files(tmp_path)
    tokenizer = Tokenizer.load(files / "tokenizer")
    records.write(storage.at(f"{gs}/records.jsonl"), records.read(files / "records.jsonl").records)
    config = DataConfig(heldout=8, max_length=256, cache=f"{gs}/cache")
    host("one")
    built = builder.load_examples(config, f"{gs}/records.jsonl", tokenizer)
    names = storage.objects(storage.at(f"{gs}/cache"))
    assert sum(name.endswith(COUNTED) for name in names) == 1 and sum(name.endswith("dataset_info.json") for name in names) == 1
    host("two")
    with monkeypatch.context() as patch:
        patch.setattr(builder, "_build_tokens", lambda *_: pytest.fail("built again"))
        taken = builder.load_examples(config, f"{gs}/records.jsonl", tokenizer)
    assert taken.fingerprint == built.fingerprint and taken.counts == built.counts
    for split, examples in built.examples.items():
        assert np.array_equal(examples.ids, taken.examples[split].ids) and len(examples) == len(taken.examples[split])

    # One that was killed before it had put everything doesn't count.
    (last,) = [name for name in names if name.endswith(COUNTED)]
    (storage.at(f"{gs}/cache") / last).unlink()
    host("three")
    assert builder.load_examples(config, f"{gs}/records.jsonl", tokenizer).fingerprint == built.fingerprint
    assert last in storage.objects(storage.at(f"{gs}/cache"))

    folder = next(name for name in names if name.endswith("dataset_info.json")).removesuffix("/dataset_info.json")
    opened = origin.find(f"tfds:{gs}/cache/{folder}#heldout")
    assert len(list(opened.stream(builder.Counter()))) == 8


def test_a_dataset_that_is_not_there_is_said(gs):
    with pytest.raises(UserError, match="nothing is there"):
        origin.find(f"tfds:{gs}/none")
