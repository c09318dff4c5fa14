"""Weights & Biases and MLflow behind the same three calls. The packages read their keys from the environment themselves."""

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

EXPERIMENT = "alpaca-jax"  # the MLflow experiment, unless MLFLOW_EXPERIMENT_NAME is set
AT_ONCE = 100  # parameters that MLflow accepts in one call
TIMEOUT_SECONDS = 25  # for one attempt to reach a server
LONGEST = 500  # characters of a parameter that every MLflow server accepts


class Tracker(Protocol):
    """A service that compares experiments. It is used from one thread, and any call may fail."""

    name: str
    id: str | None  # the tracker's own id for this run

    def open(self) -> None:
        """Starts a run there, or continues the one that `id` names."""

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
        # silent: no prompt for a key on the terminal. disable_git: the address of a remote may contain a key.
        # The limits: by default it waits for the network for ever.
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
        # Its own step count can't go back, but a resumed run repeats the steps since its checkpoint.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of an MLflow experiment, with the configuration as its parameters."""

    name = "mlflow"

    def __init__(self, package: Any, uri: str, run_name: str, settings: Mapping[str, Any], id: str | None = None) -> None:
        self.id = id
        self._package, self._uri, self._run_name, self._settings = package, uri, run_name, settings
        self._client: Any = None

    def open(self) -> None:
        # By default it retries for minutes; here the next line retries.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT_SECONDS))
        self._client = self._package.MlflowClient(tracking_uri=self._uri)
        if self.id is not None:
            self._client.update_run(self.id, status="RUNNING")
            return
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        existing = self._client.get_experiment_by_name(experiment)
        experiment_id = self._client.create_experiment(experiment) if existing is None else existing.experiment_id
        self.id = self._client.create_run(experiment_id, run_name=self._run_name).info.run_id
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
