import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from alpaca_jax.errors import Lost, UserError
from alpaca_jax.teacher import local
from alpaca_jax.teacher.config import TeacherConfig

TEACHER = TeacherConfig(source="some/model")
READY = """
import json, os, sys, time
print("loading")
ready = next(a for a in sys.argv if a.startswith("ready=")).split("=", 1)[1].strip("'")
open(ready + ".new", "w").write(json.dumps({"base_url": "http://127.0.0.1:1/v1", "model": "own", "pid": os.getpid()}))
os.rename(ready + ".new", ready)
"""


@pytest.fixture
def server(monkeypatch):
    """Puts a script in the place of our server."""
    real = local._command

    def put(script):
        monkeypatch.setattr(local, "_command", lambda *arguments: [sys.executable, "-c", script, *real(*arguments)[3:]])

    return put


def serving(tmp_path, patience=20.0):
    return local.serving(TEACHER, 512, tmp_path / "teacher.log", lambda line: None, patience)


def children():
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def test_it_is_our_own_server():
    command = local._command(TeacherConfig(source="it's/here"), 512, Path("/tmp/r.json"))
    assert command[:4] == [sys.executable, "-m", "alpaca_jax", "serve"]
    assert "model.source='it\\'s/here'" in command
    assert {"port=0", "max_length=512", "slots=8", f"parent={os.getpid()}"} <= set(command)


def test_it_is_ready_then_ended_also_on_ctrl_c(tmp_path, server):
    server(READY + "time.sleep(60)")
    with serving(tmp_path) as endpoint:
        assert (endpoint.base_url, endpoint.model) == ("http://127.0.0.1:1/v1", "own")
        assert len(children()) == 1
    assert not children()
    with pytest.raises(KeyboardInterrupt), serving(tmp_path):
        raise KeyboardInterrupt
    assert not children()


def test_one_that_ignores_the_signal_is_killed(tmp_path, server, monkeypatch):
    real = subprocess.Popen.wait
    monkeypatch.setattr(subprocess.Popen, "wait", lambda self, timeout=None: real(self, 0.3 if timeout else None))
    server("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + READY + "time.sleep(60)")
    with serving(tmp_path):
        pass
    assert not children()


@pytest.mark.parametrize(("code", "kind"), [(2, UserError), (1, Lost), (201, Lost)])
def test_one_that_dies_at_the_start_says_its_last_words(tmp_path, server, code, kind):
    server(f"print('no such model: some/model'); raise SystemExit({code})")
    with pytest.raises(kind, match=rf"exit code {code}(?s:.)*no such model"), serving(tmp_path):
        pass


def test_one_that_dies_later_explains_the_lost_teacher(tmp_path, server):
    server(READY + "print('out of memory'); raise SystemExit(1)")
    with pytest.raises(Lost, match=r"exit code 1(?s:.)*out of memory(?s:.)*connection failed"), serving(tmp_path):
        raise Lost("the connection failed")


def test_one_that_never_gets_ready_is_given_up(tmp_path, server):
    server("import time; print('thinking', flush=True); time.sleep(60)")
    with pytest.raises(UserError, match=r"isn't ready after 1 s(?s:.)*thinking"), serving(tmp_path, patience=1.0):
        pass
    assert not children()


def test_a_model_that_does_not_exist_is_the_users(tmp_path):
    with (
        pytest.raises(UserError, match="exit code 2"),
        local.serving(TeacherConfig(source=str(tmp_path / "none.gguf")), 64, tmp_path / "teacher.log", lambda line: None),
    ):
        pass
