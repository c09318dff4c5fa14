"""The settings of `alpaca-jax train`."""

from dataclasses import field
from typing import Literal

from alpaca_jax import storage
from alpaca_jax.checkpoint import CheckpointConfig
from alpaca_jax.config import configclass, suggestion
from alpaca_jax.data.config import BatchConfig, DataConfig
from alpaca_jax.distributed import DistributedConfig
from alpaca_jax.formats.adapter.settings import AdapterConfig
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.hardware import HardwareConfig
from alpaca_jax.metrics.config import LoggingConfig, ProfileConfig
from alpaca_jax.ranges import Above0, Positive, Seed
from alpaca_jax.scores.answers import AnswersConfig
from alpaca_jax.scores.config import SamplesConfig
from alpaca_jax.scores.judge.config import JudgeConfig
from alpaca_jax.scores.suites.config import SuiteConfig
from alpaca_jax.sharding import MeshConfig
from alpaca_jax.train import figures
from alpaca_jax.train.objectives import ObjectiveConfig, SftConfig
from alpaca_jax.train.stopping import StoppingConfig
from alpaca_jax.trainer.guard import GuardConfig
from alpaca_jax.trainer.optimizer import OptimizerConfig

# What the summary of every run has.
ALWAYS = ("loss", "final_loss", "tokens_real", "seconds", "compile_seconds", "skipped_steps", "rollbacks", "steps", "goodput.", "memory.")


@configclass
class Config:
    """One training run; `dir/train/` receives all it writes."""

    dir: str
    seed: Seed = 0
    epochs: Above0 = 3.0
    steps: Positive | None = None  # instead of epochs
    microbatches: Positive = 1  # parts that the rows of a step are computed in, one after another
    log_every: Positive = 1  # steps between two reads of the metrics from the device
    evaluate_every: Positive | None = None  # steps between held-out losses (needs data.heldout) and answers to samples.prompts
    export: Literal["float32", "bfloat16", "float16"] | None = None  # each kept checkpoint becomes a Hugging Face folder in this dtype too
    samples: SamplesConfig = SamplesConfig()
    suites: dict[str, SuiteConfig] = field(default_factory=dict)  # by name; scored with each evaluation
    answers: AnswersConfig = AnswersConfig()  # what is compared, with each evaluation
    compare: JudgeConfig | None = None
    early_stopping: StoppingConfig | None = None
    guard: GuardConfig = GuardConfig()
    profile: ProfileConfig | None = None
    objective: ObjectiveConfig = SftConfig()
    adapter: AdapterConfig | None = None  # null: all weights are trained but optimizer.frozen
    model: ModelConfig
    data: DataConfig
    batch: BatchConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    hardware: HardwareConfig
    checkpoint: CheckpointConfig
    logging: LoggingConfig = LoggingConfig()
    distributed: DistributedConfig = DistributedConfig()

    def __post_init__(self) -> None:
        if self.batch.rows is not None and self.batch.rows % self.microbatches:
            raise ValueError(f"batch.rows={self.batch.rows} cannot be taken in microbatches={self.microbatches} equal parts")
        asked = self.samples.prompts or self.suites or self.compare or self.objective.measured
        if self.evaluate_every is not None and not self.data.heldout and not asked:
            raise ValueError(
                f"evaluate_every={self.evaluate_every} needs something to evaluate: give data.heldout, suites or samples.prompts, or null"
            )
        if self.evaluate_every is None and (self.suites or self.compare):
            raise ValueError("suites and compare are measured with each evaluation: give evaluate_every=N, or leave them out")
        if self.adapter is not None and self.optimizer.frozen:
            raise ValueError("with an adapter all weights of the model are frozen: leave optimizer.frozen empty")
        if self.compare is not None:
            figures.check(self.answers, self.compare)
        if self.early_stopping is not None and not figures.has(known := self.measured, self.early_stopping.metric):
            name = self.early_stopping.metric
            raise ValueError(
                f"early_stopping.metric={name}: this run doesn't measure it{suggestion(name, known)}; "
                + (f"it measures {', '.join(known)}" if known else "give evaluate_every=N, with data.heldout or suites")
            )
        if self.export is not None and storage.is_remote(self.dir):
            raise ValueError(
                f"export={self.export} writes to a disk, and dir={self.dir} is none: leave it null, and "
                f"`alpaca-jax convert source={self.dir}/train target=FOLDER` afterwards"
            )

    @property
    def measured(self) -> list[str]:
        """The names of the figures that each evaluation measures (see `figures`); none where there are no evaluations."""
        if self.evaluate_every is None:
            return []
        scored = bool(self.data.heldout) and self.objective.heldout_loss
        losses = ["heldout_loss"] * scored + ["heldout_loss_ema"] * bool(scored and self.optimizer.ema)
        return losses + list(self.objective.measured) + figures.of_suites(self.suites) + figures.of_comparison(self.compare)

    @property
    def objectives(self) -> list[str]:
        """The figures of a finished run that a sweep may rank its jobs by; one that ends in `.` stands for those inside it."""
        best = ["best_value"] if self.early_stopping else []
        return [*self.measured, *best, *ALWAYS, *(["dollars"] if self.hardware.dollars_per_hour is not None else [])]
