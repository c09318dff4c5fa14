"""Hugging Face folders that are written while a run goes on: those of the checkpoints that are kept, and nothing else."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import psutil
import pytest
from rich.console import Console
from training import config

from alpaca_jax import checkpoint
from alpaca_jax.checkpoint import CheckpointConfig, Checkpoints
from alpaca_jax.errors import Restart
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.huggingface import reader as huggingface
from alpaca_jax.formats.names import weights
from alpaca_jax.train import run as verb
from alpaca_jax.train.export import ModelExports
from alpaca_jax.train.run import run

# Stands for the verb: copies its source, waits for a file `go` beside the target if there is one called `wait`, fails at step 13.
VERB = """import os, shutil, sys, time
words = dict(word.split("=", 1) for word in sys.argv[2:])
source, target = words["source"], words["target"]
assert sys.argv[1] == "convert" and os.environ["JAX_PLATFORMS"] == "cpu" and os.nice(0) >= 10
folder = os.path.dirname(target)
if source.endswith("/13"):
    sys.exit("thirteen\\nis no number")
partial = os.path.join(folder, "." + os.path.basename(target) + ".partial")
shutil.copytree(source, partial, dirs_exist_ok=True)
open(os.path.join(folder, "pid"), "w").write(str(os.getpid()))
while os.path.exists(os.path.join(folder, "wait")) and not os.path.exists(os.path.join(folder, "go")):
    time.sleep(0.02)
assert os.path.isdir(source), "it was pruned"
os.rename(partial, target)
"""


class Run:
    """A run's checkpoints and their exports, with the stand-in for the verb."""

    def __init__(self, folder, **settings):
        self.folder = folder / "hf"
        (folder / "verb.py").write_text(VERB)
        self.checkpoints = Checkpoints(folder / "checkpoints", CheckpointConfig(asynchronous=False, **settings))
        self.console = Console(file=open(folder / "said", "w"), width=200)  # noqa: SIM115
        self.exports = ModelExports(self.folder, self.checkpoints, "float32", self.console, (sys.executable, str(folder / "verb.py")))

    def save(self, *steps):
        for step in steps:
            self.checkpoints.save(step, {"params": {"weight": jnp.full(4, float(step))}}, {})

    def until_done(self):
        self.exports.last()
        wait_for(lambda: self.exports.done)

    @property
    def there(self):
        return sorted(path.name for path in self.folder.iterdir())

    @property
    def said(self):
        self.console.file.flush()
        return (self.folder.parent / "said").read_text()


def written(path):
    """Whether a file is there and not empty, as it is for a moment."""
    return path.exists() and path.stat().st_size > 0


def wait_for(true):
    deadline = time.monotonic() + 240
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def made(tmp_path):
    """`made(**settings)`: a run; its files are closed in the end."""
    runs = []

    def make(**settings):
        runs.append(Run(tmp_path, **settings))
        return runs[-1]

    yield make
    for each in runs:
        each.checkpoints.close()
        each.console.file.close()


def test_what_is_kept_has_its_folder_and_what_is_pruned_loses_it(made):
    one = made(keep=2, keep_every=10)
    one.save(1, 10)
    with one.exports:
        wait_for(lambda: one.folder.is_dir() and {"1", "10"} <= set(one.there))
        one.save(11, 12)
        one.until_done()
    assert checkpoint.steps(one.checkpoints.folder) == [10, 11, 12]
    assert [name for name in one.there if name != "pid"] == ["10", "11", "12"]
    assert "checkpoint 12 is a Hugging Face folder too" in one.said


def test_a_checkpoint_that_is_being_read_is_not_pruned(made):
    one = made(keep=1)
    one.save(1)
    one.folder.mkdir()
    (one.folder / "wait").touch()
    with one.exports:
        wait_for(lambda: written(one.folder / "pid"))
        one.save(2, 3)
        assert checkpoint.steps(one.checkpoints.folder) == [1, 3]
        (one.folder / "go").touch()
        one.until_done()
    assert checkpoint.steps(one.checkpoints.folder) == [3]
    assert "3" in one.there and "1" not in one.there
    assert "waiting for the Hugging Face folder of step" in one.said and "failed" not in one.said


def test_a_failure_is_told_and_ends_nothing(made):
    one = made(keep=3)
    one.save(12, 13)
    with one.exports:
        one.until_done()
    assert {"12", "13.log"} <= set(one.there) and "13" not in one.there
    assert "exporting checkpoint 13 failed (exit code 1" in one.said and "thirteen\n  is no number" in one.said


def test_the_process_ends_with_the_run_and_the_next_start_makes_the_rest(made):
    one = made(keep=2)
    one.save(1, 2)
    one.folder.mkdir()
    (one.folder / "wait").touch()
    with one.exports:
        wait_for(lambda: written(one.folder / "pid"))
        process = int((one.folder / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert not {"1", "2"} & set(one.there)
    assert threading.active_count() == 1 or not any(thread.name == "export" for thread in threading.enumerate())
    (one.folder / "wait").unlink()
    again = made(keep=2)
    with again.exports:
        again.until_done()
    assert {"1", "2"} <= set(again.there) and not [name for name in again.there if name.startswith(".")]


def test_a_run_that_is_stopped_while_it_waits_asks_to_be_started_again(files, tmp_path, monkeypatch):
    (tmp_path / "verb.py").write_text(VERB)
    folder = tmp_path / "run" / "train" / "hf"
    folder.mkdir(parents=True)
    (folder / "wait").touch()
    monkeypatch.setattr(verb, "ModelExports", functools.partial(ModelExports, prefix=(sys.executable, str(tmp_path / "verb.py"))))

    def stop():
        wait_for(lambda: written(folder / "pid") and (tmp_path / "run" / "train" / "summary.json").exists())
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Restart, match="trained, and stopped while checkpoints were exported"):
        run(config(files, tmp_path / "run", steps=2, export="bfloat16"))
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "pid").read_text()), 0)
    assert not (folder / "2").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone signals a process whose parent is gone")
def test_the_process_ends_with_a_run_that_is_killed(made, tmp_path):
    one = made(keep=1)
    one.save(1)
    one.folder.mkdir()
    (one.folder / "wait").touch()
    script = f"""if True:
        import pathlib, sys, time
        from rich.console import Console
        from alpaca_jax.checkpoint import CheckpointConfig, Checkpoints
        from alpaca_jax.train.export import ModelExports
        folder = pathlib.Path({str(tmp_path)!r})
        checkpoints = Checkpoints(folder / "checkpoints", CheckpointConfig())
        with ModelExports(folder / "hf", checkpoints, "float32", Console(), (sys.executable, str(folder / "verb.py"))):
            time.sleep(60)
    """
    killed = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script])
    wait_for(lambda: written(one.folder / "pid"))
    killed.kill()
    killed.wait()
    process = int((one.folder / "pid").read_text())
    wait_for(lambda: not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE)
    assert "1" not in one.there


def same(folder, step):
    """Whether the folder of a step holds its checkpoint bit for bit."""
    exported = huggingface.open_folder(folder / "train" / "hf" / str(step))
    trained = pretrained.open(folder / "train" / "checkpoints" / str(step))
    assert exported.architecture == trained.architecture
    return all(exported.read(path).tobytes() == trained.read(path).tobytes() for path in weights(trained.architecture))


@pytest.mark.prove
@pytest.mark.filterwarnings("ignore")  # of torch and transformers
def test_a_training_run_leaves_a_folder_of_each_checkpoint_it_keeps(files, tmp_path):
    settings = {"every_steps": 2, "keep": 1, "keep_every": 4}
    summary = run(config(files, tmp_path, steps=6, export="float32", checkpoint=settings))
    assert summary["steps"] == 6
    assert checkpoint.steps(tmp_path / "train" / "checkpoints") == [4, 6]
    assert sorted(path.name for path in (tmp_path / "train" / "hf").iterdir()) == ["4", "6"]
    assert same(tmp_path, 4) and same(tmp_path, 6)
    assert "| checkpoint | step 6, the last" in (tmp_path / "train" / "hf" / "6" / "README.md").read_text()

    # Started again it makes what is missing.
    shutil.rmtree(tmp_path / "train" / "hf" / "6")
    run(config(files, tmp_path, steps=6, export="float32", checkpoint=settings))
    assert same(tmp_path, 6)

    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "train" / "hf" / "6")
    ours = huggingface.open_folder(tmp_path / "train" / "hf" / "6").read(("embed", "weight"))
    assert theirs.get_input_embeddings().weight.detach().numpy().tobytes() == ours.tobytes()
