"""Sweeps whose jobs are small scripts, controlled by their settings."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alpaca_jax import __main__ as cli
from alpaca_jax.launcher import combinations

WORKER = """
import json, os, sys, time
from pathlib import Path
rank, attempt = int(os.environ.get("ALPACA_JAX_PROCESS", 0)), int(os.environ.get("ALPACA_JAX_ATTEMPT", 0))
settings = dict(word.split("=", 1) for word in sys.argv if "=" in word)
folder = Path(settings["dir"])
(folder / "train").mkdir(parents=True, exist_ok=True)
seed = int(settings.get("seed", 0))
def done(loss=1.0):
    if rank == 0:
        (folder / "train" / "metrics.jsonl").write_text(json.dumps({"step": 7, "loss": loss}) + "\\n")
        (folder / "train" / "summary.json").write_text(json.dumps({"heldout_loss": loss, "dollars": 0.5}))
"""


def scripted(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> Callable[..., int]:
    """Makes the launcher's jobs run a few lines that can use `rank`, `settings`, `folder`, `seed` and `done(loss)`; returns the command."""
    script = folder / "worker.py"
    script.write_text(WORKER + lines)
    monkeypatch.setattr(combinations, "PROGRAM", (sys.executable, str(script)))

    def sweep(*words: str) -> int:
        return cli.main(["train", "-m", f"dir={folder}/sweep", "hydra.launcher.poll_seconds=0.1", "hydra.launcher.restarts=0", *words])

    return sweep
