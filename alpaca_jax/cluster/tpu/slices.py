"""The slices of TPUs that a job runs on: one that exists, or queued resources made, made again after a preemption, and deleted."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from alpaca_jax.cluster.job import Job
from alpaca_jax.cluster.tpu import gcloud
from alpaca_jax.errors import UserError

POLL_SECONDS = 15.0
PATIENCE = 20  # answers in a row that may fail to come
# The number in an accelerator's name counts cores on the older ones: 8 of them, or 4 chips, are a host's.
CORES = ("v2", "v3", "v4", "v5p")
CHIPS = ("v5litepod", "v6e")
CREATED_WITH = ("network", "subnetwork", "service_account")


@dataclasses.dataclass(frozen=True)
class Worker:
    """One host of a slice."""

    tpu: str  # the slice's name
    number: int  # in its slice
    address: str

    @property
    def host(self) -> str:
        """How the host is called before it has told its name."""
        return f"{self.tpu}-w-{self.number}"


def hosts(accelerator: str) -> int:
    """Returns the number of hosts of one slice of an accelerator type such as v5litepod-16."""
    kind, _, number = accelerator.rpartition("-")
    if kind not in CORES + CHIPS or not number.isdigit():
        known = ", ".join(f"{kind}-N" for kind in CORES + CHIPS)
        raise UserError(f"accelerator_type={accelerator}: not a TPU that this version knows ({known})")
    size = int(number)
    if kind in CORES:
        return max(1, size // 8)
    return 1 if size <= 8 else size // 4


def nodes(options: Mapping[str, Any]) -> int:
    """Returns the number of hosts, hence of ranks, that a job with these options has."""
    if tpu := options.get("tpu"):
        return len(_endpoints(_usable(options, str(tpu), gcloud.describe(options, "tpu-vm", str(tpu)))))
    if not options.get("accelerator_type"):
        raise UserError("give tpu=NAME of a slice that exists, or accelerator_type= and runtime_version= of one to be made")
    return int(options.get("slices") or 1) * hosts(str(options["accelerator_type"]))


class Slices:
    """The slices of one job. What `tpu` names belongs to somebody and is only used; all else is made here and deleted here."""

    def __init__(self, job: Job, say: Callable[[str], None] = lambda text: None) -> None:
        self.job, self.options, self.say = job, job.options, say
        self.existing = str(job.options["tpu"]) if job.options.get("tpu") else None
        self._said = ""

    @property
    def names(self) -> list[str]:
        """The slices' names, in their order."""
        if self.existing:
            return [self.existing]
        count = int(self.options.get("slices") or 1)
        return [self.job.name] if count == 1 else [f"{self.job.name}-{index}" for index in range(count)]

    def acquire(self, stopped: Callable[[], bool]) -> list[Worker] | None:
        """Returns the workers, rank by rank, once all slices are ready; makes what is missing. None where `stopped` first."""
        failures = 0
        while not stopped():
            try:
                workers = self._workers() if self._are_ready() else None
                failures = 0
            except Unanswered as error:
                failures += 1
                workers = None
                if failures > PATIENCE:
                    raise error.mistake from error
            if workers is not None:
                if len(workers) != self.job.nodes:
                    raise UserError(f"{', '.join(self.names)}: {len(workers)} hosts, and the job has {self.job.nodes}; launch it anew")
                return workers
            _pause(stopped)
        return None

    def state(self) -> str:
        """Returns Google's word for where the queued resource stands, "" where there is none."""
        found = gcloud.describe(self.options, "queued-resources", self.job.name)
        return "" if found is None else found.get("state", {}).get("state", "")

    def release(self) -> None:
        """Deletes what was made for this job; a slice that existed is left alone."""
        if self.existing is None and self.state():
            self.say(f"deleting the queued resource {self.job.name}")
            gcloud.ask(self.options, "queued-resources", "delete", self.job.name, "--force")

    def _are_ready(self) -> bool:
        """True where every slice is ready; sees to it that they become so."""
        if self.existing:
            _usable(self.options, self.existing, _answered(lambda: gcloud.describe(self.options, "tpu-vm", str(self.existing))))
            return True
        found = _answered(lambda: gcloud.describe(self.options, "queued-resources", self.job.name))
        state = "" if found is None else found.get("state", {}).get("state", "")
        self._tell(state or "not made yet")
        if found is None:
            self._create()
        elif state == "FAILED":
            error = found["state"].get("failedData", {}).get("error", {}).get("message", "no reason given")
            raise UserError(f"the queued resource {self.job.name} has failed: {error}; ask for another zone, type or size")
        elif state == "SUSPENDED" or (state == "ACTIVE" and self._is_preempted()):
            self._tell("taken away: made again")
            self.release()
        return state == "ACTIVE" and all(described["state"] == "READY" for described in self._described())

    def _is_preempted(self) -> bool:
        return any(described.get("state") in ("PREEMPTED", "TERMINATED", "STOPPED", "gone") for described in self._described())

    def _described(self) -> list[dict[str, Any]]:
        found = [_answered(lambda name=name: gcloud.describe(self.options, "tpu-vm", name)) for name in self.names]
        return [described or {"state": "gone"} for described in found]

    def _workers(self) -> list[Worker]:
        slices = zip(self.names, self._described(), strict=True)
        return [Worker(name, number, address) for name, each in slices for number, address in enumerate(_endpoints(each))]

    def _create(self) -> None:
        slices = len(self.names)
        shape = [f"--node-id={self.job.name}"] if slices == 1 else [f"--node-count={slices}", f"--node-prefix={self.job.name}"]
        own = [f"--{key.replace('_', '-')}={self.options[key]}" for key in CREATED_WITH if self.options.get(key)]
        kind = [f"--{key}" for key in ("spot", "reserved") if str(self.options.get(key)).lower() == "true"]
        asked = [f"--accelerator-type={self.options['accelerator_type']}", f"--runtime-version={self.options['runtime_version']}"]
        self.say(f"asking for {slices} x {self.options['accelerator_type']} as the queued resource {self.job.name}")
        gcloud.ask(self.options, "queued-resources", "create", self.job.name, *shape, *asked, *kind, *own)

    def _tell(self, state: str) -> None:
        if state != self._said:
            self.say(f"the queued resource {self.job.name}: {state}")
            self._said = state


class Unanswered(Exception):
    """gcloud gave no answer, which a wait may outlast."""

    def __init__(self, mistake: UserError) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


def _answered(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except UserError as error:
        raise Unanswered(error) from error


def _usable(options: Mapping[str, Any], name: str, found: dict[str, Any] | None) -> dict[str, Any]:
    """What Google knows of a slice that exists; a UserError where it doesn't, or can't be used."""
    if found is None:
        raise UserError(f"tpu={name}: there is no such slice in zone={options.get('zone')}; see `gcloud compute tpus tpu-vm list`")
    if found.get("state") != "READY":
        raise UserError(f"tpu={name} is {found.get('state')}: make it READY, or let the job make one of its own (accelerator_type=)")
    return found


def _endpoints(described: Mapping[str, Any]) -> list[str]:
    return [end["ipAddress"] for end in described.get("networkEndpoints", [])]


def _pause(stopped: Callable[[], bool]) -> None:
    end = time.monotonic() + POLL_SECONDS
    while time.monotonic() < end and not stopped():
        time.sleep(min(0.1, POLL_SECONDS))
