"""Peaks in bytes: of this process, not of the one that started it."""

import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from alpaca_jax.metrics import memory
from alpaca_jax.metrics.peaks import _host_peak


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a child starts with its parent's peak")
def test_the_host_peak_is_this_process_own():
    block = np.ones(40_000_000)  # 320 MB, of the parent
    code = """
from alpaca_jax.metrics.peaks import _host_peak
before = _host_peak()
block = bytearray(100_000_000)
del block
print(before, _host_peak() - before)
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, more = map(int, child.stdout.split())
    assert before < block.nbytes < _host_peak()
    assert 90e6 < more < 110e6


def test_without_proc_the_system_call_answers(tmp_path):
    assert _host_peak(tmp_path / "absent") >= _host_peak() // 2 > 0


def test_the_device_that_needed_most_counts_and_a_silent_backend_gives_none(monkeypatch):
    assert memory()["device_peak_bytes"] is None  # a CPU
    stats = [{"peak_bytes_in_use": 5}, {"peak_bytes_in_use": 7}, None]
    devices = [types.SimpleNamespace(memory_stats=lambda each=each: each) for each in stats]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert memory()["device_peak_bytes"] == 7
