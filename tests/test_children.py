"""Child processes: what ends with its parent, what outlives it, and what happens to one that won't end."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from alpaca_jax import children

SLEEPS = "import pathlib, os, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"


def written(path):
    """The process id in a file, waited for."""
    return int(eventually(lambda: path.exists() and path.read_text()))


def eventually(value):
    deadline = time.monotonic() + 30
    while not (result := value()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return result


def is_alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def parent(tmp_path, body):
    """A Python process that runs `body`, which may use `command`."""
    command = [sys.executable, "-c", SLEEPS, str(tmp_path / "pid")]
    script = f"import pathlib, sys, time\nfrom alpaca_jax import children\ncommand = {command!r}\n{body}"
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", script])


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone signals a process whose parent is gone")
@pytest.mark.parametrize("death_signal", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_ends_when_its_parent_is_killed(tmp_path, death_signal):
    killed = parent(tmp_path, f"children.start(command, {int(death_signal)})\ntime.sleep(60)")
    child = written(tmp_path / "pid")
    killed.kill()
    killed.wait()
    eventually(lambda: not is_alive(child))
    assert not is_alive(child)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone signals a process whose parent is gone")
def test_one_whose_parent_has_ended_already_never_becomes_its_command(tmp_path):
    orphan = [sys.executable, "-IS", "-c", children._BIND_AND_BECOME, "1", "15", "0", sys.executable, "-c", SLEEPS, str(tmp_path / "pid")]
    assert subprocess.run(orphan).returncode == 128 + signal.SIGKILL
    assert not (tmp_path / "pid").exists()


def test_a_child_leads_a_group_has_no_input_and_is_as_nice_as_asked():
    script = "import os, sys; print(os.getpgid(0) == os.getpid(), sys.stdin.read() == '', os.nice(0))"
    child = children.start([sys.executable, "-c", script], niceness=3, stdout=subprocess.PIPE)
    assert child.communicate()[0].decode().split() == ["True", "True", str(os.nice(0) + 3)]


def test_a_detached_process_outlives_its_parent(tmp_path):
    up = "children.detach(command, pathlib.Path(sys.argv[0]), pathlib.Path(command[-1]).exists, 30)"
    body = f"assert {up.replace('sys.argv[0]', repr(str(tmp_path / 'logs' / 'log')))}"
    assert parent(tmp_path, body).wait() == 0
    detached = psutil.Process(written(tmp_path / "pid"))
    try:
        assert is_alive(detached.pid) and os.getsid(detached.pid) == detached.pid
    finally:
        children.end(detached, 10)


def test_detach_says_that_a_process_ended_or_took_too_long(tmp_path):
    def start(code, seconds):
        return children.detach([sys.executable, "-c", code], tmp_path / "log", lambda: False, seconds)

    before = set(psutil.Process().children())  # of other tests in this process
    assert not start("print('no such folder')", 30)
    assert "no such folder" in (tmp_path / "log").read_text()
    assert not start("import time; time.sleep(0.5)", 0.1)
    eventually(lambda: set(psutil.Process().children()) <= before)  # no zombie is left


@pytest.mark.parametrize("kind", ["popen", "psutil"])
def test_end_is_polite_first(tmp_path, kind):
    def started(code):
        child = subprocess.Popen(
            [sys.executable, "-c", f"import signal\n{code}\nprint(flush=True)\nsignal.pause()"], stdout=subprocess.PIPE
        )
        with child.stdout:
            child.stdout.readline()
        return child, child if kind == "popen" else psutil.Process(child.pid)

    for code, seconds, polite in (("", 30, True), ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 0.2, False)):
        child, process = started(code)
        assert children.end(process, seconds) is polite
        assert not is_alive(child.pid)
        child.wait()


def test_kill_group_ends_what_a_child_left_behind(tmp_path):
    script = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEPS!r}, {str(tmp_path / 'pid')!r}])"
    child = children.start([sys.executable, "-W", "ignore", "-c", script])
    child.wait()
    left = written(tmp_path / "pid")
    children.kill_group(child)
    eventually(lambda: not is_alive(left))
    children.kill_group(child)  # nothing is left, and that is fine
    assert not is_alive(left)


def test_tail(tmp_path):
    log = tmp_path / "log"
    log.write_text("")
    assert children.tail(log, 2) == "  (none)"
    log.write_text("one\ntwo\nthree\n")
    assert children.tail(log, 2) == "  two\n  three"
