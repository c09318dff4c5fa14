"""What the section `distributed` of a config holds."""

from alpaca_jax.config import configclass


@configclass
class DistributedConfig:
    """How the processes of one job find, check and watch each other; for one process nothing of it is used."""

    coordinator: str | None = None  # host:port of process 0; null: from the cluster's environment
    processes: int | None = None
    process: int | None = None  # this one, from 0: the only key that differs between the processes
    devices: int | None = None  # that the whole job must see; null: as many as there are
    join_minutes: float = 5.0  # how long the others are waited for
    heartbeat_seconds: int = 30  # a process that is silent for so long is lost
    stuck_minutes: float | None = 20.0  # without a step the process ends with code 201; the first step has three times as long
    maintenance: bool | None = None  # whether the metadata server of Google's cloud is asked for notices; null: on TPUs

    def __post_init__(self) -> None:
        for name in ("processes", "devices", "join_minutes", "stuck_minutes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value}: give more than 0")
        if self.heartbeat_seconds < 5:
            raise ValueError(f"heartbeat_seconds={self.heartbeat_seconds}: give 5 or more, or a short pause of the network ends the job")
