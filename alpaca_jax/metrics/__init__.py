"""A run's metrics: what they mean and where they are written."""

from alpaca_jax.metrics.background import Sink, sinks
from alpaca_jax.metrics.config import LoggingConfig, ProfileConfig
from alpaca_jax.metrics.goodput import Goodput
from alpaca_jax.metrics.peaks import memory
from alpaca_jax.metrics.profile import Profile
from alpaca_jax.metrics.rates import Throughput, WeightedMean
from alpaca_jax.metrics.writer import MetricsWriter, read

__all__ = [
    "Goodput",
    "LoggingConfig",
    "MetricsWriter",
    "Profile",
    "ProfileConfig",
    "Sink",
    "Throughput",
    "WeightedMean",
    "memory",
    "read",
    "sinks",
]
