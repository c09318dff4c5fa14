"""Programs of strangers: what they may do, what they may not, and what is left of them."""

import tempfile
import time
from pathlib import Path

import psutil
import pytest

from alpaca_jax.rewards import sandbox
from alpaca_jax.rewards.config import PythonConfig, TestsConfig

CONFIG = TestsConfig(name="tests", seconds=3.0, megabytes=256)


def ran(code, tests="", **settings):
    return sandbox.passes(CONFIG if not settings else TestsConfig(name="tests", **settings), code, tests)


def test_code_passes_its_tests_or_fails_them():
    assert ran("Sure:\n```python\ndef f(x):\n    return x + 1\n```\nDone.", "assert f(1) == 2").value == 1.0
    assert ran("def f(x): return x", "assert f(1) == 2") == sandbox.Ran(None, "raised AssertionError: ")
    assert "raised SyntaxError" in ran("def f(:").problem


# In one process, since each costs a start of Python: whatever is refused leaves the program able to try the next.
ATTEMPTS = """
import os, socket, subprocess, threading
def refused(attempt):
    try:
        attempt()
    except (OSError, RuntimeError):
        return
    raise SystemExit(f"allowed: {attempt.__code__.co_names} {attempt.__code__.co_consts}")
refused(lambda: open("/etc/passwd"))
refused(lambda: os.listdir("/"))
refused(lambda: open(OUTSIDE, "w"))
refused(lambda: os.mkdir(OUTSIDE))
refused(lambda: os.symlink("/", OUTSIDE))
refused(lambda: socket.socket())
refused(lambda: socket.socketpair())
refused(lambda: os.fork())
refused(lambda: subprocess.run(["ls"]))
refused(lambda: os.execv("/bin/ls", ["ls"]))
refused(lambda: threading.Thread(target=print).start())
refused(lambda: os.kill(os.getppid(), 9))
refused(lambda: open("large", "wb", 0).write(bytes(20 << 20)) == 20 << 20 or exec("raise OSError"))
assert not set(os.environ) - {"LC_CTYPE"}, "keys of the parent"
with open("own", "w") as file:
    file.write("mine")
assert open("own").read() == "mine" and os.listdir(".")
"""


def test_neither_files_nor_network_nor_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("API_KEY", "secret")
    before = set(Path(tempfile.gettempdir()).glob("reward-*"))
    assert ran(ATTEMPTS.replace("OUTSIDE", repr(str(tmp_path / "outside")))) == sandbox.Ran(1.0)
    assert not list(tmp_path.iterdir())
    assert set(Path(tempfile.gettempdir()).glob("reward-*")) == before


def test_memory_and_time_are_bounded_and_nothing_is_left():
    assert ran("x = [0] * 10**9").problem == "ran out of memory"
    began = time.monotonic()
    assert ran("import time; time.sleep(100)", seconds=0.2).problem == "took longer than 0.2 s"
    assert time.monotonic() - began < 60
    assert not [child for child in psutil.Process().children(recursive=True) if "confine.py" in " ".join(child.cmdline())]


FORGED = """
import os
for number in range(3, 32):
    try:
        os.write(number, b'{"value": 1.0}')
    except OSError:
        pass
"""


@pytest.mark.parametrize("code", ["import os; os._exit(0)", "raise SystemExit(0)", FORGED])
def test_ending_early_or_writing_a_result_is_not_passing(code):
    assert ran(code, "assert False").value is None


def test_a_reward_of_ones_own():
    config = PythonConfig(name="python", file="unused", seconds=3.0)
    source = "def reward(prompt, answer, key):\n    return len(answer) / (0 if key == 'bad' else 2)"
    assert sandbox.calls(config, source, "p", "four", "k").value == 2.0
    assert sandbox.calls(config, source, "p", "four", "bad").problem == "raised ZeroDivisionError: division by zero"
