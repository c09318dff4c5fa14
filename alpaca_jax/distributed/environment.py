"""This process's place in its job: from the settings, from the variables of our launchers, or from those of the cluster."""

import dataclasses
import os
import socket
from collections.abc import Callable, Mapping

from alpaca_jax.distributed import hostlist
from alpaca_jax.distributed.config import DistributedConfig
from alpaca_jax.errors import UserError

PORT = 8476  # of the coordinator, unless a setting or a job's number gives another
# Above the ports that Linux gives to outgoing connections, which could take one of ours first.
_FIRST_PORT, _PORTS = 61440, 4000
OWN = ("ALPACA_JAX_COORDINATOR", "ALPACA_JAX_PROCESSES", "ALPACA_JAX_PROCESS")
OWN_LOCAL = ("ALPACA_JAX_LOCAL_PROCESSES", "ALPACA_JAX_LOCAL_PROCESS")
ATTEMPT = "ALPACA_JAX_ATTEMPT"
MEGASCALE = ("MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID", "MEGASCALE_COORDINATOR_ADDRESS")
_JOBSET = ("JOBSET_NAME", "REPLICATED_JOB_NAME", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS")
_OMPI = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")
Environ = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Place:
    """One process of a job. `coordinator` is host:port of the lead (rank 0), None if there is one process."""

    rank: int = 0
    size: int = 1
    coordinator: str | None = None
    kind: str = "single"  # single | settings | launcher | jobset | openmpi | slurm | tpu
    host: str = dataclasses.field(default_factory=socket.gethostname)
    local_rank: int | None = None  # among the processes of its node; None: counted once all have met
    local_size: int | None = None
    hosts: tuple[str, ...] = ()  # the node that each rank is expected on, if the cluster says so
    attempt: int = 0

    @property
    def address(self) -> tuple[str, int]:
        """The coordinator's host and port."""
        assert self.coordinator is not None
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def find(config: DistributedConfig, environ: Environ = os.environ, metadata: Callable[[str], str | None] | None = None) -> Place:
    """Returns this process's place; a UserError names the variable or key that is missing, wrong or in conflict with another.

    The settings win over ALPACA_JAX_* (which our launchers set), these over a JobSet, Open MPI, Slurm and a TPU pod, in this order.
    `metadata` looks up an attribute of a Google machine: that is how TPU pods without variables are recognized.
    """
    ways = (_settings, _launcher, _jobset, _openmpi, _slurm, lambda config, environ: _tpu(environ, metadata))
    place = next((place for way in ways if (place := way(config, environ)) is not None), Place())
    place = dataclasses.replace(place, attempt=_attempt(environ))
    if config.coordinator is not None and place.size > 1:
        place = dataclasses.replace(place, coordinator=config.coordinator)
    if place.size == 1:
        if config.coordinator is not None and config.processes is None and place.kind == "single":
            raise UserError(
                "distributed.coordinator is given, but not how many processes there are: give distributed.processes and distributed.process"
            )
        return dataclasses.replace(place, coordinator=None)
    _check_coordinator(place)
    return place


def stale(place: Place, environ: Environ = os.environ) -> list[str]:
    """Returns a message, with the remedy, for each variable that another run left here; such variables make jobs hang silently."""
    messages = []
    address = environ.get("JAX_COORDINATOR_ADDRESS")
    if address and address != place.coordinator:
        messages.append(f"JAX_COORDINATOR_ADDRESS={address} is not this job's coordinator {place.coordinator}: unset it")
    slices = {name: environ[name] for name in MEGASCALE if environ.get(name)}
    if slices and place.kind not in ("tpu", "jobset", "launcher", "settings"):
        names = ", ".join(slices)
        messages.append(f"{names}: set by a run on slices of TPUs, but this job was recognized by {place.kind}: unset them")
    elif (address := slices.get("MEGASCALE_COORDINATOR_ADDRESS")) and _bare(address) != place.address[0]:
        messages.append(f"MEGASCALE_COORDINATOR_ADDRESS={address} is not the host of this job's coordinator {place.coordinator}: unset it")
    return messages


# --- one function per way; None if its variables are absent -----------------------------------------------------------------------


def _settings(config: DistributedConfig, environ: Environ) -> Place | None:
    given = {name: getattr(config, name) for name in ("coordinator", "processes", "process")}
    if config.processes is None and config.process is None:
        return None
    if config.processes == 1 and config.process in (None, 0):
        return Place(kind="settings")
    for key, variable in zip(given, OWN, strict=True):
        if given[key] is None:
            raise UserError(f"distributed.{key} is missing: coordinator, processes and process are given together or not at all")
        if variable in environ and environ[variable] != str(given[key]):
            raise UserError(f"distributed.{key}={given[key]}, but {variable}={environ[variable]}: unset the variable or leave out the key")
    size, rank = config.processes, config.process
    assert size is not None and rank is not None
    _check_rank(rank, size, "distributed.process", "distributed.processes")
    local_rank, local_size = _own_local(environ)
    return Place(rank, size, config.coordinator, "settings", local_rank=local_rank, local_size=local_size)


def _launcher(_: DistributedConfig, environ: Environ) -> Place | None:
    values = _all_or_none(environ, OWN)
    if values is None:
        return None
    size, rank = _number(environ, OWN[1], least=1), _number(environ, OWN[2])
    _check_rank(rank, size, OWN[2], OWN[1])
    local_rank, local_size = _own_local(environ)
    return Place(rank, size, values[OWN[0]], "launcher", local_rank=local_rank, local_size=local_size)


def _jobset(_: DistributedConfig, environ: Environ) -> Place | None:
    # Kubernetes sets JOB_COMPLETION_INDEX for any indexed Job; the manifest in launch/ sets the others.
    if "JOBSET_NAME" not in environ:
        return None
    values = _all_or_none(environ, _JOBSET)
    assert values is not None
    pods, pod = _number(environ, "JOB_COMPLETIONS", least=1), _number(environ, "JOB_COMPLETION_INDEX")
    replicas = _number(environ, "JOBSET_REPLICAS", default=1, least=1)
    if replicas > 1 and "JOB_INDEX" not in environ:
        raise UserError("JOB_INDEX is absent, but JOBSET_REPLICAS says that there are several; the manifest takes it from job-index")
    replica = _number(environ, "JOB_INDEX", default=0)
    _check_rank(pod, pods, "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS")
    _check_rank(replica, replicas, "JOB_INDEX", "JOBSET_REPLICAS")
    name, job = values["JOBSET_NAME"], values["REPLICATED_JOB_NAME"]
    hosts = tuple(f"{name}-{job}-{r}-{p}" for r in range(replicas) for p in range(pods))
    return Place(replica * pods + pod, replicas * pods, f"{hosts[0]}.{name}:{PORT}", "jobset", local_rank=0, local_size=1, hosts=hosts)


def _openmpi(config: DistributedConfig, environ: Environ) -> Place | None:
    if _OMPI[0] not in environ and _OMPI[1] not in environ:
        return None
    _all_or_none(environ, _OMPI)
    rank, size, local_rank, local_size = (_number(environ, name) for name in _OMPI)
    _check_rank(rank, size, _OMPI[0], _OMPI[1])
    _check_rank(local_rank, local_size, _OMPI[2], _OMPI[3])
    coordinator = config.coordinator or (f"127.0.0.1:{PORT}" if local_size == size else None)
    if coordinator is None:
        # Its variables name the node that mpirun runs on, which need not be the lead's.
        raise UserError(
            f"distributed.coordinator: Open MPI doesn't say where the lead (rank 0) of its {size} processes is; "
            "give distributed.coordinator=HOST:PORT (the lead's host and a free port there)"
        )
    return Place(rank, size, coordinator, "openmpi", local_rank=local_rank, local_size=local_size)


def _slurm(_: DistributedConfig, environ: Environ) -> Place | None:
    if "SLURM_PROCID" not in environ:
        return None
    if "SLURM_STEP_NODELIST" not in environ:  # the batch script itself, which looks like the lead
        size = _number(environ, "SLURM_NTASKS", default=1)
        if size == 1:
            return None
        raise UserError(
            f"SLURM_NTASKS={size}, but SLURM_STEP_NODELIST is absent: this is not a step of the job; start it with `srun`, "
            "or give distributed.processes=1 for one process"
        )
    count = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    rank, size, job = _number(environ, "SLURM_PROCID"), _number(environ, count, least=1), _number(environ, "SLURM_JOB_ID")
    _check_rank(rank, size, "SLURM_PROCID", count)
    names = hostlist.nodes(environ["SLURM_STEP_NODELIST"])
    local_rank, local_size = _number(environ, "SLURM_LOCALID"), None
    per_node = "SLURM_STEP_TASKS_PER_NODE" if "SLURM_STEP_TASKS_PER_NODE" in environ else "SLURM_TASKS_PER_NODE"
    if per_node in environ:
        tasks, node = hostlist.tasks(environ[per_node], per_node), _number(environ, "SLURM_NODEID", default=0)
        if len(tasks) != len(names) or sum(tasks) != size:
            raise UserError(
                f"{per_node}={environ[per_node]} doesn't fit {count}={size} tasks on {len(names)} nodes: unset what srun didn't set"
            )
        _check_rank(node, len(tasks), "SLURM_NODEID", per_node)
        local_size = tasks[node]
        _check_rank(local_rank, local_size, "SLURM_LOCALID", per_node)
    attempt = _number(environ, "SLURM_RESTART_COUNT", default=0) + _attempt(environ)
    port = _FIRST_PORT + (job + 977 * _number(environ, "SLURM_STEP_ID", default=0) + 1399 * attempt) % _PORTS
    hosts = tuple(names) if len(names) == size else ()
    return Place(rank, size, f"{names[0]}:{port}", "slurm", local_rank=local_rank, local_size=local_size, hosts=hosts)


def _tpu(environ: Environ, metadata: Callable[[str], str | None] | None) -> Place | None:
    listed = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if listed or "TPU_WORKER_ID" in environ:
        if not listed:
            raise UserError("TPU_WORKER_HOSTNAMES is absent, but TPU_WORKER_ID is set; set both or neither")
        workers, worker = listed.split(","), _number(environ, "TPU_WORKER_ID")
    elif metadata is not None and (endpoints := metadata("attributes/worker-network-endpoints")):
        # Either plain names, or name:id:address triples.
        workers = [endpoint.split(":")[-1] for endpoint in endpoints.split(",")]
        worker = _number({"agent-worker-number": metadata("attributes/agent-worker-number") or ""}, "agent-worker-number")
    else:
        return None
    _check_rank(worker, len(workers), "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES")
    set_here = [name for name in MEGASCALE if environ.get(name)]
    if not set_here:
        return Place(worker, len(workers), f"{_bare(workers[0])}:{PORT}", "tpu", local_rank=0, local_size=1, hosts=tuple(workers))
    _all_or_none(environ, MEGASCALE)
    slices, this = _number(environ, MEGASCALE[0], least=1), _number(environ, MEGASCALE[1])
    _check_rank(this, slices, MEGASCALE[1], MEGASCALE[0])
    rank = this * len(workers) + worker
    coordinator = f"{_bare(environ[MEGASCALE[2]])}:{PORT}"
    return Place(rank, slices * len(workers), coordinator, "tpu", local_rank=0, local_size=1)


# --- reading and checking ---------------------------------------------------------------------------------------------------------


def _all_or_none(environ: Environ, names: tuple[str, ...]) -> dict[str, str] | None:
    values = {name: environ[name] for name in names if environ.get(name)}
    if values and len(values) < len(names):
        absent = ", ".join(name for name in names if name not in values)
        raise UserError(f"{absent}: absent or empty, but {', '.join(values)} is set; set all of them or none")
    return values or None


def _number(environ: Environ, name: str, default: int | None = None, least: int = 0) -> int:
    text = environ.get(name)
    if text is None and default is not None:
        return default
    if text is None:
        raise UserError(f"{name} is absent, but its neighbours are set; set all of them or none")
    if not text.strip().isdigit() or int(text) < least:
        raise UserError(f"{name}={text!r} is not a whole number of at least {least}")
    return int(text)


def _check_rank(rank: int, size: int, rank_name: str, size_name: str) -> None:
    if not 0 <= rank < size:
        raise UserError(f"{rank_name}={rank} is not below {size_name}={size}")


def _own_local(environ: Environ) -> tuple[int | None, int | None]:
    if _all_or_none(environ, OWN_LOCAL) is None:
        return None, None
    size, rank = _number(environ, OWN_LOCAL[0], least=1), _number(environ, OWN_LOCAL[1])
    _check_rank(rank, size, OWN_LOCAL[1], OWN_LOCAL[0])
    return rank, size


def _attempt(environ: Environ) -> int:
    return _number(environ, ATTEMPT, default=0)


def _bare(address: str) -> str:
    """The host of an address with or without a port."""
    return address.rsplit(":", 1)[0] if address.count(":") == 1 else address


def _check_coordinator(place: Place) -> None:
    host, colon, port = (place.coordinator or "").rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"the coordinator {place.coordinator!r} ({place.kind}) is not of the form host:port")
