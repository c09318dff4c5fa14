"""Where this process stands in its job: from the settings, from what our launchers set, or from what the cluster sets."""

import dataclasses
import os
import socket
from collections.abc import Callable, Mapping

from alpaca_jax.distributed import hostlist
from alpaca_jax.distributed.config import DistributedConfig
from alpaca_jax.errors import UserError

PORT = 8476  # of the coordinator, where neither a setting nor a job's number gives one
# Above the ports that Linux gives to outgoing connections, so that none of those takes it first.
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
    """One process of a job. `coordinator` is host:port of rank 0, or None where there is one process."""

    rank: int = 0
    size: int = 1
    coordinator: str | None = None
    kind: str = "single"  # single | settings | launcher | jobset | openmpi | slurm | tpu
    host: str = dataclasses.field(default_factory=socket.gethostname)
    local_rank: int | None = None  # among the processes of its node; None: what the others say tells it
    local_size: int | None = None
    hosts: tuple[str, ...] = ()  # the node that each rank is expected on, where the cluster says so
    attempt: int = 0

    @property
    def address(self) -> tuple[str, int]:
        """The coordinator's host and port."""
        assert self.coordinator is not None
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def find(config: DistributedConfig, environ: Environ = os.environ, metadata: Callable[[str], str | None] | None = None) -> Place:
    """Returns this process's place; UserError names the variable or key that is absent, wrong, or says another thing than its neighbours.

    The settings win over ALPACA_JAX_* (which our launchers set), these over a JobSet, Open MPI, Slurm and a TPU pod, in this order.
    `metadata` answers for an attribute of a Google machine: TPU pods without variables are found by it.
    """
    ways = (_settings, _launcher, _jobset, _openmpi, _slurm, lambda config, environ: _tpu(environ, metadata))
    place = next((found for way in ways if (found := way(config, environ)) is not None), Place())
    place = dataclasses.replace(place, attempt=_attempt(environ))
    if config.coordinator is not None and place.size > 1:
        place = dataclasses.replace(place, coordinator=config.coordinator)
    if place.size == 1:
        if config.coordinator is not None and config.processes is None and place.kind == "single":
            raise UserError(
                "distributed.coordinator is given, but nothing says how many processes there are: give distributed.processes and process"
            )
        return dataclasses.replace(place, coordinator=None)
    _check_coordinator(place)
    return place


def stale(place: Place, environ: Environ = os.environ) -> list[str]:
    """Returns what variables of another run are set here, each with the remedy; such variables have hung jobs without a word."""
    found = []
    told = environ.get("JAX_COORDINATOR_ADDRESS")
    if told and told != place.coordinator:
        found.append(f"JAX_COORDINATOR_ADDRESS={told} is not this job's coordinator {place.coordinator}: unset it")
    slices = {name: environ[name] for name in MEGASCALE if environ.get(name)}
    if slices and place.kind not in ("tpu", "jobset", "launcher", "settings"):
        names = ", ".join(slices)
        found.append(f"{names}: set by a run on slices of TPUs, while this job was found by {place.kind}: unset them")
    elif address := slices.get("MEGASCALE_COORDINATOR_ADDRESS"):
        host = address.rsplit(":", 1)[0] if address.count(":") == 1 else address
        if host != place.address[0]:
            found.append(f"MEGASCALE_COORDINATOR_ADDRESS={address} is not the host of this job's coordinator {place.coordinator}: unset it")
    return found


# --- one way each; None where the way's variables are not there -------------------------------------------------------------------


def _settings(config: DistributedConfig, environ: Environ) -> Place | None:
    given = {name: getattr(config, name) for name in ("coordinator", "processes", "process")}
    if config.processes is None and config.process is None:
        return None
    if config.processes == 1 and config.process in (None, 0):
        return Place(kind="settings")
    for key, variable in zip(given, OWN, strict=True):
        if given[key] is None:
            raise UserError(f"distributed.{key}: is needed where distributed.processes or distributed.process is given; give all three")
        if variable in environ and environ[variable] != str(given[key]):
            raise UserError(f"distributed.{key}={given[key]}, but {variable}={environ[variable]}: unset the variable or leave out the key")
    size, rank = config.processes, config.process
    assert size is not None and rank is not None
    _check_rank(rank, size, "distributed.process", "distributed.processes")
    return Place(rank, size, config.coordinator, "settings", **_own_local(environ))


def _launcher(_: DistributedConfig, environ: Environ) -> Place | None:
    values = _all_or_none(environ, OWN)
    if values is None:
        return None
    size, rank = _number(environ, OWN[1], least=1), _number(environ, OWN[2])
    _check_rank(rank, size, OWN[2], OWN[1])
    return Place(rank, size, values[OWN[0]], "launcher", **_own_local(environ))


def _jobset(_: DistributedConfig, environ: Environ) -> Place | None:
    # JOB_COMPLETION_INDEX is set by Kubernetes for any indexed Job; the others are put there by the manifest in launch/.
    if "JOBSET_NAME" not in environ:
        return None
    values = _all_or_none(environ, _JOBSET)
    assert values is not None
    pods, pod = _number(environ, "JOB_COMPLETIONS", least=1), _number(environ, "JOB_COMPLETION_INDEX")
    replicas = _number(environ, "JOBSET_REPLICAS", default=1, least=1)
    if replicas > 1 and "JOB_INDEX" not in environ:
        raise UserError("JOB_INDEX: is absent while JOBSET_REPLICAS says that there are several; the manifest takes it from job-index")
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
        # Its variables name the node that mpirun runs on, which rank 0 need not be on.
        raise UserError(
            f"distributed.coordinator: Open MPI doesn't say where rank 0 of its {size} processes is; "
            f"give distributed.coordinator=HOST:PORT (rank 0's host and a free port there)"
        )
    return Place(rank, size, coordinator, "openmpi", local_rank=local_rank, local_size=local_size)


def _slurm(_: DistributedConfig, environ: Environ) -> Place | None:
    if "SLURM_PROCID" not in environ:
        return None
    if "SLURM_STEP_NODELIST" not in environ:  # the batch script itself, which looks like rank 0
        size = _number(environ, "SLURM_NTASKS", default=1)
        if size == 1:
            return None
        raise UserError(
            f"SLURM_NTASKS={size}, but SLURM_STEP_NODELIST is absent: this is no step of the job; start it with `srun`, "
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
                f"{per_node}={environ[per_node]} doesn't fit {count}={size} tasks on {len(names)} nodes: unset what is not srun's"
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
            raise UserError("TPU_WORKER_HOSTNAMES: is absent, while TPU_WORKER_ID is set; set both or neither")
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
        raise UserError(f"{absent}: absent or empty, while {', '.join(values)} is set; set all of them or none")
    return values or None


def _number(environ: Environ, name: str, default: int | None = None, least: int = 0) -> int:
    text = environ.get(name)
    if text is None and default is not None:
        return default
    if text is None:
        raise UserError(f"{name}: is absent, while its neighbours are set; set all of them or none")
    if not text.strip().isdigit() or int(text) < least:
        raise UserError(f"{name}={text!r}: is no whole number from {least} on")
    return int(text)


def _check_rank(rank: int, size: int, rank_name: str, size_name: str) -> None:
    if not 0 <= rank < size:
        raise UserError(f"{rank_name}={rank} is not below {size_name}, which says {size}")


def _own_local(environ: Environ) -> dict[str, int]:
    if _all_or_none(environ, OWN_LOCAL) is None:
        return {}
    size, rank = _number(environ, OWN_LOCAL[0], least=1), _number(environ, OWN_LOCAL[1])
    _check_rank(rank, size, OWN_LOCAL[1], OWN_LOCAL[0])
    return {"local_rank": rank, "local_size": size}


def _attempt(environ: Environ) -> int:
    return _number(environ, ATTEMPT, default=0)


def _bare(address: str) -> str:
    """The host of an address with or without a port."""
    return address.rsplit(":", 1)[0] if address.count(":") == 1 else address


def _check_coordinator(place: Place) -> None:
    host, colon, port = (place.coordinator or "").rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"the coordinator {place.coordinator!r} ({place.kind}) is not of the form host:port")
