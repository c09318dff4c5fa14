import errno
import json
import os
import stat

import pytest

from alpaca_jax import rundir
from alpaca_jax.errors import UserError


def _no_space(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_path_makes_the_parent_only(tmp_path):
    path = rundir.RunDir(str(tmp_path / "run")).path("train", "metrics.jsonl")
    assert path.parent.is_dir()
    assert not path.exists()


def test_path_names_a_file_in_the_way(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"run.*give another dir="):
        rundir.RunDir(tmp_path / "run").path("train", "x")


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deep" / "file"
    rundir.write_atomic(path, "one")
    rundir.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


def test_full_disk_keeps_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(UserError, match=r"file: the disk is full .* MB free"):
        rundir.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_full_disk_leaves_no_part_of_a_line(tmp_path, monkeypatch):
    path = tmp_path / "log"
    rundir.append_line(path, '{"a": 1}')
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(UserError, match="the disk is full"):
        rundir.append_line(path, '{"b": 2}')
    assert path.read_text() == '{"a": 1}\n'


@pytest.mark.parametrize("torn", ['{"b": ', "x" * 200_000])
def test_append_line_removes_a_torn_tail(tmp_path, torn):
    path = tmp_path / "log"
    rundir.append_line(path, '{"a": 1}')
    with open(path, "a") as file:
        file.write(torn)
    rundir.append_line(path, '{"c": 3}')
    assert path.read_text() == '{"a": 1}\n{"c": 3}\n'


def test_append_line_ends_a_whole_last_line(tmp_path):
    path = tmp_path / "log"
    path.write_text('{"a": 1}')
    rundir.append_line(path, '{"b": 2}')
    assert path.read_text() == '{"a": 1}\n{"b": 2}\n'


def test_append_line_into_a_torn_only_line(tmp_path):
    path = tmp_path / "log"
    path.write_text('{"a"')
    rundir.append_line(path, '{"b": 2}')
    assert path.read_text() == '{"b": 2}\n'


def test_json_round_trip_and_its_errors(tmp_path):
    path = tmp_path / "a.json"
    rundir.write_json(path, {"text": "ä", "n": [1, None]})
    assert rundir.read_json(path) == {"text": "ä", "n": [1, None]}
    path.write_text('{\n"a": }')
    with pytest.raises(UserError, match=r"a\.json, line 2"):
        rundir.read_json(path)
    with pytest.raises(UserError, match="does not exist"):
        rundir.read_json(tmp_path / "b.json")
    with pytest.raises(ValueError, match="JSON"):
        rundir.write_json(path, float("nan"))


def test_check_same_names_every_differing_key(tmp_path):
    path = tmp_path / "config.yaml"
    config = {"seed": 1, "model": {"source": "a", "betas": (1, 2)}, "optimizer": {"learning_rate": 1e-4}, "log_every": 5}
    rundir.check_same(path, config)  # nothing there yet
    rundir.write_yaml(path, json.loads(json.dumps(config)))
    rundir.check_same(path, config | {"log_every": 6})
    with pytest.raises(UserError) as raised:
        rundir.check_same(path, config | {"seed": 2, "model": {"source": "b", "betas": (1, 2)}})
    text = str(raised.value)
    assert "seed: 1 there, 2 now" in text
    assert "model.source: 'a' there, 'b' now" in text
    assert "betas" not in text
    assert "log_every" not in text


def test_check_same_of_a_run_that_is_older_than_a_setting(tmp_path):
    path = tmp_path / "config.yaml"
    rundir.write_yaml(path, {"model": {"source": "a"}})
    rundir.check_same(path, {"model": {"source": "a", "bias": False, "window": None, "layers": ()}})
    with pytest.raises(UserError, match="model.bias: 'absent' there, True now"):
        rundir.check_same(path, {"model": {"source": "a", "bias": True}})


def test_check_same_of_a_broken_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: [")
    with pytest.raises(UserError, match="config.yaml, line 2: not YAML"):
        rundir.check_same(path, {})
