"""A training run on two nodes of a real Slurm, joined through jax.distributed."""

import json

import pytest
import slurm_cluster
from cluster_jobs import eventually
from training import command, make_files

from alpaca_jax import metrics
from alpaca_jax.cluster import record
from alpaca_jax.cluster.job import Job, State
from alpaca_jax.cluster.slurm.backend import Slurm


@pytest.mark.slow
def test_two_nodes_train_together(tmp_path, monkeypatch):
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    (tmp_path / "slurm").mkdir()
    words = command(make_files(tmp_path), tmp_path / "run", steps=4, mesh={"data": 2})
    job = Job(folder=tmp_path / "run", command=tuple(words), name="train", nodes=2, environment={"JAX_NUM_CPU_DEVICES": "1"})
    with slurm_cluster.cluster(tmp_path / "slurm") as running:
        monkeypatch.setenv("SLURM_CONF", str(running.conf))
        Slurm().submit(job)
        eventually(lambda: Slurm().state(job.folder).state.final, 240)
    found = record.read(job.folder)
    said = "".join(path.read_text() for path in sorted(job.folder.glob("logs/**/*.log")))
    assert (found.state, found.exit_code, len(found.attempts)) == (State.done, 0, 1), said
    assert json.loads((job.folder / "train" / "summary.json").read_text())["hardware"]["devices"] == 2
    assert len(metrics.read(job.folder / "train" / "metrics.jsonl")) >= 1
    assert "n1" in said and "n2" in said
