"""The verb generate with dir=gs://: its log grows on this machine, and goes on from either place."""

import pytest
from scripted_teacher import scripted_teacher

from alpaca_jax import records, storage
from alpaca_jax.errors import UserError
from alpaca_jax.generate import run as verb
from alpaca_jax.generate.config import Config, Magpie
from alpaca_jax.spool import Spool
from alpaca_jax.teacher import log
from alpaca_jax.teacher.config import TeacherConfig


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Makes this process one on another machine, with an empty home."""
    monkeypatch.setenv("TEST_KEY", "sk-0123456789")

    def on(name):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setenv("HOME", str(tmp_path / name))
        return tmp_path / name

    return on


def config(gs, server, count):
    settings = {"key_env": "TEST_KEY", "endpoint": "completions", "max_retries": 0, "timeout": 5.0, "free": True}
    teacher = TeacherConfig(base_url=server.base_url, model="m", **settings)
    return Config(dir=gs, count=count, method="magpie", magpie=Magpie(prefix="<user>", stop=("<end>",)), teacher=teacher)


def test_another_machine_goes_on_from_what_was_put(gs, host, monkeypatch):
    monkeypatch.setattr(log, "SHARD", 3)
    with scripted_teacher() as server:
        home = host("one")
        verb.run(config(gs, server, 4))
        assert not [path for path in home.rglob("*") if path.is_file()]
        first = records.read(gs)
        assert len(first.records) == 4
        seeds = {body["seed"] for body in server.bodies}
        server.bodies.clear()
        host("two")
        manifest = verb.run(config(gs, server, 8))
        assert not seeds & {body["seed"] for body in server.bodies}
    found = records.read(gs)
    assert len(found.records) == manifest.records == 8 and found.records[:4] == first.records and found.sha256 == manifest.sha256
    assert sorted(storage.objects(storage.at(f"{gs}/records"))) == [
        *("answers/00000000.jsonl", "answers/00000003.jsonl", "answers/00000006.jsonl"),
        *("config.yaml", "manifest.json", "records.jsonl"),
    ]


def test_a_run_whose_last_put_failed_goes_on_from_this_machine(gs, host, monkeypatch):
    with scripted_teacher() as server:
        home = host("one")
        with monkeypatch.context() as patch:
            patch.setattr(Spool, "_upload", lambda self: (_ for _ in ()).throw(ConnectionResetError("away")))
            with pytest.raises(UserError, match=r"can't be reached .* are in"):
                verb.run(config(gs, server, 4))
        (shard,) = home.rglob("00000000.jsonl")
        assert shard.read_text().count("\n") > 4
        server.bodies.clear()
        verb.run(config(gs, server, 4))
        assert not server.bodies
    assert not shard.exists() and len(records.read(gs).records) == 4


def test_a_log_in_one_file_as_of_before_shards_is_gone_on_from(gs, host):
    with scripted_teacher() as server:
        host("one")
        verb.run(config(gs, server, 4))
        folder = storage.at(f"{gs}/records")
        old = (folder / "answers" / "00000000.jsonl").read_bytes()
        storage.remove(folder / "answers")
        (folder / "answers.jsonl").write_bytes(old)
        server.bodies.clear()
        host("two")
        verb.run(config(gs, server, 5))
        assert len(server.bodies) == 2
    assert len(records.read(gs).records) == 5
    assert (folder / "answers.jsonl").read_bytes() == old
