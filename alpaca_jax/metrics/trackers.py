"""Weights & Biases and MLflow, each behind the same three calls. Keys come from the environment and are the packages' own business."""

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

EXPERIMENT = "alpaca-jax"  # of MLflow, unless MLFLOW_EXPERIMENT_NAME is set
AT_ONCE = 100  # parameters that MLflow takes in one call
TIMEOUT_SECONDS = 25  # of one try to reach a server
LONGEST = 500  # characters of a parameter that every MLflow server takes


class Tracker(Protocol):
    """Where experiments are compared; used from one thread, and each call may fail."""

    name: str
    id: str | None  # the tracker's own of this run

    def open(self) -> None:
        """Starts the run there, or goes on with the one that `id` names."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class WandB:
    """A run of a Weights & Biases project; WANDB_MODE=offline keeps it in `folder/wandb` for a later `wandb sync`."""

    name = "wandb"

    def __init__(
        self, package: Any, project: str, run_name: str, settings: Mapping[str, Any], folder: str | Path, id: str | None = None
    ) -> None:
        self.id: str | None = id or uuid.uuid4().hex[:8]
        self._package, self._project, self._run_name = package, project, run_name
        self._settings, self._folder = dict(settings), Path(folder)
        self._run: Any = None

    def open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Silent, it doesn't ask for a key on the terminal. The address of a git remote may hold one, so it isn't looked at.
        # By default it waits for a network for ever.
        limits = {"init_timeout": TIMEOUT_SECONDS, "finish_timeout": TIMEOUT_SECONDS, "finish_timeout_raises": True}
        quiet = self._package.Settings(silent=True, console="off", disable_git=True, save_code=False, **limits)
        self._package.setup(quiet)
        self._run = self._package.init(
            project=self._project,
            id=self.id,
            name=self._run_name,
            dir=str(self._folder),
            config=self._settings,
            resume="allow",
            settings=quiet,
        )
        # Its own count of steps refuses to go back to the checkpoint that a run went on from.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of an MLflow experiment, its configuration as parameters."""

    name = "mlflow"

    def __init__(self, package: Any, uri: str, run_name: str, settings: Mapping[str, Any], id: str | None = None) -> None:
        self.id = id
        self._package, self._uri, self._run_name, self._settings = package, uri, run_name, settings
        self._client: Any = None

    def open(self) -> None:
        # By default it tries for minutes; ours tries again with the next line.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT_SECONDS))
        self._client = self._package.MlflowClient(tracking_uri=self._uri)
        if self.id is not None:
            self._client.update_run(self.id, status="RUNNING")
            return
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(experiment)
        place = self._client.create_experiment(experiment) if found is None else found.experiment_id
        self.id = self._client.create_run(place, run_name=self._run_name).info.run_id
        params = [self._package.entities.Param(key, str(value)[:LONGEST]) for key, value in _flat(self._settings)]
        for start in range(0, len(params), AT_ONCE):
            self._client.log_batch(self.id, params=params[start : start + AT_ONCE])

    def write(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._package.entities.Metric(key, value, now, step) for key, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self.id)


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
