"""The door to object stores: what it lets through, what it refuses, and how soon."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alpaca_jax import records, rundir, storage
from alpaca_jax.errors import UserError
from alpaca_jax.spool import Spool


def test_a_local_path_stays_one(tmp_path):
    assert storage.at(str(tmp_path)) == tmp_path and type(storage.at("~/x")) is type(Path())
    assert storage.at("~/x") == Path.home() / "x" and not storage.is_remote(tmp_path)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("gs:/bkt/run", "spell it gs://BUCKET/NAME"),
        ("gs://", "spell it gs://BUCKET/NAME"),
        ("az://bkt/run", "az:// can't be read or written"),
        ("https://example.org/x", "give a local path, gs://BUCKET/NAME or s3://BUCKET/NAME"),
    ],
)
def test_a_misspelt_address_is_said(where, said):
    with pytest.raises(UserError, match=said):
        storage.at(where)


@pytest.mark.parametrize(("where", "extra"), [("gs://bkt/run", "gcs"), ("s3://bkt/run", "s3")])
def test_a_package_that_is_absent_is_named(monkeypatch, where, extra):
    monkeypatch.setattr(storage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'alpaca-jax\[{extra}\]'"):
        storage.at(where)


def test_an_absent_bucket_is_said(emulator):
    with pytest.raises(UserError, match="gs://nobody: there is no such bucket"):
        storage.at("gs://nobody/run")


PROBE = "import sys; from alpaca_jax.__main__ import main; sys.exit(main(['train', 'model=tiny', 'dir=gs://bkt/run', 'data.records=x']))"


def test_an_emulator_that_is_down_is_said_within_seconds(emulator):
    start = time.monotonic()
    environment = os.environ | {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROBE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "127.0.0.1:9 can't be reached" in done.stderr and "Traceback" not in done.stderr
    assert time.monotonic() - start < 30


class HttpError(Exception):
    __module__ = "gcsfs.retry"
    code = 401


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            HttpError("Anonymous caller does not have storage.objects.list access"),
            "the store refuses .*gcloud auth application",
        ),
        (OSError("Forbidden: b/bkt/o"), "may read and write this bucket"),
        (ConnectionResetError("reset"), "can't be reached"),
        (ValueError("Error writing gs://bkt/x: RESOURCE_EXHAUSTED: quota"), "the store reports an error"),
    ],
)
def test_what_a_store_answers_is_told_in_words(error, said):
    with pytest.raises(UserError, match=said), storage.explained("gs://bkt/run"):
        raise error
    with pytest.raises(type(error)), storage.explained("runs/local"):
        raise error


def test_a_bug_of_ours_stays_one():
    with pytest.raises(ValueError, match="wrong") as raised, storage.explained("gs://bkt/run"):
        raise ValueError("wrong")
    assert not isinstance(raised.value, UserError)


def test_small_files_are_put_whole_and_read_back(gs):
    folder = rundir.RunDir(gs)
    path = folder.path("train", "a b.json")
    rundir.write_json(path, {"text": "ä"})
    rundir.write_json(path, {"text": "ö"})
    assert rundir.read_json(str(path)) == {"text": "ö"} and str(path) == f"{gs}/train/a b.json"
    with pytest.raises(UserError, match="does not exist"):
        rundir.read_json(folder.path("nothing.json"))
    rundir.check_same(folder.path("config.yaml"), {"seed": 1})  # nothing there yet
    rundir.write_yaml(folder.path("config.yaml"), {"seed": 1})
    with pytest.raises(UserError, match="seed: 1 there, 2 now"):
        rundir.check_same(folder.path("config.yaml"), {"seed": 2})
    assert sorted(storage.objects(folder.root)) == ["config.yaml", "train/a b.json"]
    assert storage.size(path) == len('{\n  "text": "ö"\n}\n'.encode())


def test_folders_travel_both_ways_and_go(gs, tmp_path):
    (tmp_path / "from" / "deep").mkdir(parents=True)
    (tmp_path / "from" / "deep" / "a").write_bytes(b"a" * 100_000)
    (tmp_path / "from" / "last").write_text("b")
    remote = storage.at(gs)
    storage.send(tmp_path / "from", remote, last="last")
    storage.fetch(remote, tmp_path / "to")
    assert (tmp_path / "to" / "deep" / "a").read_bytes() == b"a" * 100_000 and (tmp_path / "to" / "last").read_text() == "b"
    storage.remove(remote)
    storage.remove(remote)
    assert storage.objects(remote) == {}
    with pytest.raises(FileNotFoundError):
        storage.fetch(remote, tmp_path / "none")


def test_records_are_read_from_a_file_a_folder_and_a_pattern(gs):
    one, two = (records.Record(f"Say {n}.", output=f"{n}") for n in range(2))
    folder = storage.at(f"{gs}/run")
    digest = records.write(folder / "records" / "records.jsonl", [one])
    records.write(storage.at(f"{gs}/more/b.jsonl"), [two])
    for place in (f"{gs}/run", f"{gs}/run/records", f"{gs}/run/records/records.jsonl", f"{gs}/run/records/*.jsonl"):
        found = records.read(place)
        assert found.records == [one] and found.sha256 == digest
    assert records.read(f"{gs}/more").records == [two]
    with pytest.raises(UserError, match="no records there"):
        records.read(f"{gs}/nowhere")


def test_a_spool_puts_what_has_grown(gs):
    spool = Spool(storage.at(gs), pytest.fail, seconds=0.05)
    (spool.folder / "log").write_text("1\n")
    deadline = time.monotonic() + 20
    while "log" not in storage.objects(storage.at(gs)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (spool.folder / "log").write_text("1\n2\n")
    (spool.folder / "events").mkdir()
    (spool.folder / "events" / "e").write_text("x")
    spool.close()
    assert (storage.at(gs) / "log").read_text() == "1\n2\n" and (storage.at(gs) / "events" / "e").exists()
    assert not spool.folder.exists()


def test_a_spool_without_a_place_on_this_machine_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.*: can't be written \(Not a directory\).*set HOME"):
        Spool(Path("gs://bkt/x"), pytest.fail, folder=tmp_path / "file" / "spool")


def test_a_spool_that_can_not_put_warns_once_and_keeps_the_files(gs, monkeypatch):
    said = []
    spool = Spool(storage.at(gs), said.append, seconds=3600)
    (spool.folder / "log").write_text("1\n")

    def away(self, data):
        raise ConnectionResetError("away")

    with monkeypatch.context() as patch:
        patch.setattr(type(storage.at(gs)), "write_bytes", away)
        spool.flush()
        spool.flush()
        with pytest.raises(UserError, match=r"can't be reached \(away\).* are in .*alpaca-jax-spool"):
            spool.close()
    assert len(said) == 1 and (spool.folder / "log").exists()


def test_its_import_brings_neither_the_packages_nor_tensorflow():
    code = (
        "import sys, json, alpaca_jax.rundir, alpaca_jax.storage; print(json.dumps([n for n in ('etils', 'fsspec', 'gcsfs', 'tensorflow')"
        " if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
