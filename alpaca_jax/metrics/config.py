"""The `logging` group and the `profile` key of a train config."""

from urllib.parse import urlsplit

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Positive


@configclass
class LoggingConfig:
    """Where metrics go besides metrics.jsonl and TensorBoard events, which are always written."""

    wandb: str | None = None  # a Weights & Biases project; the key is read from WANDB_API_KEY
    mlflow: str | None = None  # the tracking URI of an MLflow server or database
    run_name: str | None = None  # null: the name of the run's folder

    def __post_init__(self) -> None:
        if self.mlflow is not None and urlsplit(self.mlflow).password:
            raise ValueError(
                "mlflow: the address contains a password, which would be written to the run's folder; "
                "remove it and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
            )


@configclass
class ProfileConfig:
    """Which steps to trace."""

    start: Positive  # the first step traced, counted from 1
    steps: Positive = 3  # how many
