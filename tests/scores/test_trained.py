"""What is known of the records that a model was trained on: by its run, the runs before it, and what lies in their folders."""

import json

import pytest

from alpaca_jax import records
from alpaca_jax.data.config import DataConfig
from alpaca_jax.errors import UserError
from alpaca_jax.rundir import write_yaml
from alpaca_jax.scores import runs, trained


def make_run(folder, data, source=None):
    """The parts of a run that tell what it was trained on."""
    (folder / "train" / "model").mkdir(parents=True)
    (folder / "train" / "model" / "architecture.json").write_text(json.dumps({"architecture": {}}))
    write_yaml(folder / "train" / "config.yaml", {"data": data, "model": {"source": source}})
    return str(folder)


def make_records(path, numbers):
    records.write(path, [records.Record(f"Say {number}.", output=str(number)) for number in numbers])
    return str(path)


def seen(source, path, heldout, fingerprint="another"):
    return [str(each) for each in trained.find(source, DataConfig(heldout=heldout), {"records": path}, fingerprint)]


def test_the_run_s_own_split_is_unseen_and_any_other_is_counted(tmp_path):
    path = make_records(tmp_path / "a.jsonl", range(20))
    run = make_run(tmp_path / "run", {"records": path, "heldout": 5})
    assert seen(run, path, 5) == []
    assert seen(run, path, 3) == []  # the lower hashes are among the five
    assert seen(run, path, 8) == [f"{run} was trained on 3 of these 8 held-out records"]
    assert seen(run, make_records(tmp_path / "b.jsonl", range(100, 110)), 4) == []


def test_records_in_the_run_s_folder_and_several_sources(tmp_path):
    run = make_run(tmp_path / "run", {"records": None})
    make_records(tmp_path / "run" / "records" / "records.jsonl", range(10))
    assert seen(run, str(tmp_path / "run" / "records"), 4) == [f"{run} was trained on 4 of these 4 held-out records"]
    paths = [make_records(tmp_path / f"{name}.jsonl", numbers) for name, numbers in (("a", range(10)), ("b", range(10, 20)))]
    mixed = make_run(tmp_path / "mixed", {"sources": {"a": {"records": paths[0]}, "b": {"records": paths[1]}}, "heldout": 2})
    assert seen(mixed, paths[1], 2) == []
    assert seen(mixed, paths[1], 6) == [f"{mixed} was trained on 4 of these 6 held-out records"]


def test_a_run_that_started_from_another_has_seen_its_records_too(tmp_path):
    first = make_run(tmp_path / "first", {"records": make_records(tmp_path / "a.jsonl", range(10))})
    second = make_run(tmp_path / "second", {"records": make_records(tmp_path / "b.jsonl", range(10, 20))}, f"{first}/train")
    assert seen(f"{second}/train", str(tmp_path / "a.jsonl"), 3) == [f"{first} was trained on 3 of these 3 held-out records"]


def test_a_run_is_known_by_its_folder_its_average_its_checkpoints_and_what_was_converted_into_it(tmp_path):
    run = tmp_path / "run"
    make_run(run, {})
    for place in (run / "train" / "checkpoints" / "5", run / "hf", run / "train" / "hf" / "5"):
        place.mkdir(parents=True)
    (run / "model.gguf").touch()
    for name in ("", "/train", "/train#ema", "/train/checkpoints/5", "/hf", "/train/hf/5", "/model.gguf"):
        found = runs.of(f"{run}{name}")
        assert found is not None and found.dir == run, name
    (tmp_path / "other").mkdir()
    assert runs.of(tmp_path / "other") is runs.of("org/name") is runs.at(run / "hf") is None


def test_records_that_are_gone_leave_it_open_unless_the_examples_are_the_run_s_own(tmp_path):
    path = make_records(tmp_path / "a.jsonl", range(10))
    run = make_run(tmp_path / "run", {"records": str(tmp_path / "gone.jsonl"), "heldout": 2})
    [said] = seen(run, path, 2)
    assert "are gone, so nobody can tell" in said
    manifest = tmp_path / "run" / "train" / "checkpoints" / "3" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"meta": {"fingerprints": {"data": "its own"}}}))
    assert seen(run, path, 2, fingerprint="its own") == []


def test_a_broken_config_is_named(tmp_path):
    make_run(tmp_path / "run", {})
    (tmp_path / "run" / "train" / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"train/config\.yaml"):
        runs.of(tmp_path / "run")
