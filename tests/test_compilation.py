"""Where compiled programs are kept: beside the models by default, where the user says, and nowhere without a writable home."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alpaca_jax import compilation

PROGRAM = """
from alpaca_jax import compilation
compilation.set_environment()
import jax, jax.numpy as jnp
print(jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T)(jnp.ones((3, 4))).sum())
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (compilation.FOLDER, compilation.LEAST_SECONDS):
        monkeypatch.setenv(name, "")  # so that what the test sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_folder_is_in_the_users_cache_unless_the_user_names_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compilation.set_environment()
    assert os.environ[compilation.FOLDER] == str(home / ".cache" / "alpaca_jax" / "xla")
    monkeypatch.setenv(compilation.FOLDER, "/elsewhere")
    compilation.set_environment()
    assert os.environ[compilation.FOLDER] == "/elsewhere"


def test_without_a_writable_home_there_is_no_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write_text("a file, so that nothing can be made below it")
    compilation.set_environment()
    assert compilation.FOLDER not in os.environ
    home.unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as of a disk that is mounted to be read only
    compilation.set_environment()
    assert compilation.FOLDER not in os.environ


def test_processes_share_programs_and_compile_again_what_they_cannot_read(home: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), compilation.LEAST_SECONDS: "0"}
    start = lambda: subprocess.Popen(  # noqa: E731
        [sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    together = [process.communicate() for process in [start(), start()]]
    assert together[0] == together[1]
    entries = list((home / ".cache" / "alpaca_jax" / "xla").glob("*-cache"))
    assert entries
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:50])  # as a process that was killed leaves it
    output, errors = start().communicate()
    assert output == together[0][0]
    assert "Error reading persistent compilation cache entry" in errors
