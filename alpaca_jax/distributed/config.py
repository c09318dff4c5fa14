"""The `distributed` section of a config."""

from typing import Annotated

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Duration, Natural, Positive, Range

Heartbeat = Annotated[int, Range(5, 10**6, give="5 or more, or a short network outage ends the job")]


@configclass
class DistributedConfig:
    """How the processes of one job find, check and watch each other; a single process uses none of it."""

    coordinator: str | None = None  # host:port of the lead, process 0; null: from the cluster's environment
    processes: Positive | None = None
    process: Natural | None = None  # number of this process, from 0: the only key that differs between processes
    devices: Positive | None = None  # that the whole job must see; null: any number
    join_minutes: Duration = 5.0  # how long to wait for the other processes
    heartbeat_seconds: Heartbeat = 30  # a process that stays silent this long is lost
    stuck_minutes: Duration | None = 20.0  # without a step before a process exits with code 201; three times as long for the first step
    maintenance: bool | None = None  # ask Google Cloud's metadata server for maintenance notices; null: on TPUs
