"""The `distributed` section of a config."""

from alpaca_jax.config import configclass


@configclass
class DistributedConfig:
    """How the processes of one job find, check and watch each other; a single process uses none of it."""

    coordinator: str | None = None  # host:port of the lead, process 0; null: from the cluster's environment
    processes: int | None = None
    process: int | None = None  # number of this process, from 0: the only key that differs between processes
    devices: int | None = None  # that the whole job must see; null: any number
    join_minutes: float = 5.0  # how long to wait for the other processes
    heartbeat_seconds: int = 30  # a process that stays silent this long is lost
    stuck_minutes: float | None = 20.0  # without a step before a process exits with code 201; three times as long for the first step
    maintenance: bool | None = None  # ask Google Cloud's metadata server for maintenance notices; null: on TPUs

    def __post_init__(self) -> None:
        for name in ("processes", "devices", "join_minutes", "stuck_minutes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value}: give more than 0")
        if self.heartbeat_seconds < 5:
            raise ValueError(f"heartbeat_seconds={self.heartbeat_seconds}: give 5 or more, or a short network outage ends the job")
