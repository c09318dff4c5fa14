"""The TPU slices of a job: an existing one, or queued resources, created (again after a preemption) and deleted here."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from alpaca_jax.cluster.job import Job, is_true
from alpaca_jax.cluster.tpu import gcloud
from alpaca_jax.errors import UserError

POLL_SECONDS = 15.0
PATIENCE = 20  # requests in a row that may fail
# The number in an accelerator's name counts cores on the older kinds, chips on the others. A host has 8 cores, or 4 chips.
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
        """The host's name until it has reported its own."""
        return f"{self.tpu}-w-{self.number}"


def hosts(accelerator: str) -> int:
    """Returns the number of hosts of one slice of an accelerator type such as v5litepod-16."""
    kind, _, number = accelerator.rpartition("-")
    if kind not in CORES + CHIPS or not number.isdigit():
        known = ", ".join(f"{kind}-N" for kind in CORES + CHIPS)
        raise UserError(f"accelerator_type={accelerator}: unknown TPU (this version knows {known})")
    size = int(number)
    if kind in CORES:
        return max(1, size // 8)
    return 1 if size <= 8 else size // 4


def nodes(options: Mapping[str, Any]) -> int:
    """Returns the number of hosts, and so of ranks, of a job with these options."""
    if tpu := options.get("tpu"):
        return len(_endpoints(_usable(options, str(tpu), gcloud.describe(options, "tpu-vm", str(tpu)))))
    if not options.get("accelerator_type"):
        raise UserError("give tpu=NAME of an existing slice, or accelerator_type= and runtime_version= of slices to create")
    return int(options.get("slices") or 1) * hosts(str(options["accelerator_type"]))


class Slices:
    """The slices of one job. The one that `tpu` names belongs to somebody and is only used; others are created and deleted here."""

    def __init__(self, job: Job, say: Callable[[str], None] = lambda text: None) -> None:
        self.job, self.options, self.say = job, job.options, say
        self.existing = str(job.options["tpu"]) if job.options.get("tpu") else None
        self._reported = ""

    @property
    def names(self) -> list[str]:
        """The names of the slices, in order."""
        if self.existing:
            return [self.existing]
        count = int(self.options.get("slices") or 1)
        return [self.job.name] if count == 1 else [f"{self.job.name}-{index}" for index in range(count)]

    def acquire(self, stopped: Callable[[], bool]) -> list[Worker] | None:
        """Returns the workers by rank once all slices are ready; creates missing slices. None if `stopped` comes first."""
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
                    raise UserError(
                        f"{', '.join(self.names)}: {len(workers)} hosts, but the job has {self.job.nodes} nodes; launch it anew"
                    )
                return workers
            _pause(stopped)
        return None

    def state(self) -> str:
        """Returns Google's state of the queued resource, "" if there is none."""
        return _state(gcloud.describe(self.options, "queued-resources", self.job.name))

    def release(self) -> None:
        """Deletes the slices created for this job; an existing slice is kept."""
        if self.existing is None and self.state():
            self.say(f"deleting the queued resource {self.job.name}")
            gcloud.ask(self.options, "queued-resources", "delete", self.job.name, "--force")

    def _are_ready(self) -> bool:
        """True if every slice is ready; otherwise does what is needed for that."""
        if self.existing:
            _usable(self.options, self.existing, _answered(lambda: gcloud.describe(self.options, "tpu-vm", str(self.existing))))
            return True
        queued = _answered(lambda: gcloud.describe(self.options, "queued-resources", self.job.name))
        state = _state(queued)
        self._report(state or "not created yet")
        if queued is None:
            self._create()
        elif state == "FAILED":
            error = queued["state"].get("failedData", {}).get("error", {}).get("message", "no reason given")
            raise UserError(f"the queued resource {self.job.name} failed: {error}; try another zone, type or size")
        elif state == "SUSPENDED" or (state == "ACTIVE" and self._is_preempted()):
            self._report("preempted: creating it again")
            self.release()
        return state == "ACTIVE" and all(described["state"] == "READY" for described in self._described())

    def _is_preempted(self) -> bool:
        return any(described.get("state") in ("PREEMPTED", "TERMINATED", "STOPPED", "gone") for described in self._described())

    def _described(self) -> list[dict[str, Any]]:
        def describe(name: str) -> dict[str, Any]:
            return _answered(lambda: gcloud.describe(self.options, "tpu-vm", name)) or {"state": "gone"}

        return [describe(name) for name in self.names]

    def _workers(self) -> list[Worker]:
        slices = zip(self.names, self._described(), strict=True)
        return [Worker(name, number, address) for name, each in slices for number, address in enumerate(_endpoints(each))]

    def _create(self) -> None:
        slices = len(self.names)
        shape = [f"--node-id={self.job.name}"] if slices == 1 else [f"--node-count={slices}", f"--node-prefix={self.job.name}"]
        own = [f"--{key.replace('_', '-')}={self.options[key]}" for key in CREATED_WITH if self.options.get(key)]
        kind = [f"--{key}" for key in ("spot", "reserved") if is_true(self.options, key)]
        machine = [f"--accelerator-type={self.options['accelerator_type']}", f"--runtime-version={self.options['runtime_version']}"]
        self.say(f"asking for {slices} x {self.options['accelerator_type']} as the queued resource {self.job.name}")
        gcloud.ask(self.options, "queued-resources", "create", self.job.name, *shape, *machine, *kind, *own)

    def _report(self, state: str) -> None:
        if state != self._reported:
            self.say(f"the queued resource {self.job.name}: {state}")
            self._reported = state


class Unanswered(Exception):
    """A request to gcloud failed, which may pass."""

    def __init__(self, mistake: UserError) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


def _answered(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except UserError as error:
        raise Unanswered(error) from error


def _state(queued: dict[str, Any] | None) -> str:
    return "" if queued is None else queued.get("state", {}).get("state", "")


def _usable(options: Mapping[str, Any], name: str, described: dict[str, Any] | None) -> dict[str, Any]:
    """The description of an existing slice; a UserError if there is none, or it can't be used."""
    if described is None:
        raise UserError(f"tpu={name}: there is no such slice in zone={options.get('zone')}; see `gcloud compute tpus tpu-vm list`")
    if described.get("state") != "READY":
        raise UserError(
            f"tpu={name} is {described.get('state')}: wait until it is READY, or let the job create its own (accelerator_type=)"
        )
    return described


def _endpoints(described: Mapping[str, Any]) -> list[str]:
    return [end["ipAddress"] for end in described.get("networkEndpoints", [])]


def _pause(stopped: Callable[[], bool]) -> None:
    end = time.monotonic() + POLL_SECONDS
    while time.monotonic() < end and not stopped():
        time.sleep(min(0.1, POLL_SECONDS))
