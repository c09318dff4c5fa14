"""The processes of a job meet before JAX starts: who is there, and whether all agree. Every process raises the same error if not.

The lead listens on the coordinator's own port, so a port in use is reported clearly. The others connect, send their facts, look for a file
that the lead has written to the run's folder, and receive one verdict. The connections stay open: `line` uses them during the run.
"""

import contextlib
import dataclasses
import errno
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alpaca_jax.distributed import verdict
from alpaca_jax.distributed.channel import Channel, Closed, Hub
from alpaca_jax.distributed.environment import Place
from alpaca_jax.distributed.facts import Facts
from alpaca_jax.distributed.verdict import Verdict
from alpaca_jax.errors import Lost, UserError

LOOPBACK = ("127.0.0.1", "localhost")
GREETING = "alpaca-jax preflight 1"
RESOLVE_SECONDS = 60.0  # a name that doesn't resolve by then never will; a pod's takes some seconds
STRANGER_SECONDS = 20.0  # what still answers wrongly by then is not an earlier attempt that is about to end
PORT_SECONDS = 10.0  # for the port of an earlier attempt to become free
FOLDER_SECONDS = 15.0  # for a network disk to show a new file
LATE_SECONDS = 5.0  # once something is wrong, how long late processes are awaited so that they hear of it


@dataclasses.dataclass(frozen=True)
class Meeting:
    """All processes are present and agree. `members` are their facts by rank; the lead has a channel to every other rank."""

    members: tuple[Facts, ...]
    channels: dict[int, Channel]
    warnings: tuple[str, ...] = ()


def meet(place: Place, facts: Facts, folder: str, minutes: float, say: Callable[[str], None]) -> Meeting:
    """Returns once all processes are present and agree; otherwise raises the same UserError or Lost in each of them.

    `folder` is the run's; `say` is called now and then with a line about the ranks that are still missing.
    """
    return _Lead(place, facts, folder, minutes, say).meet() if place.rank == 0 else _follow(place, facts, folder, minutes)


# --- the lead ---------------------------------------------------------------------------------------------------------------------


class _Lead:
    """The lead's side: collects the facts, judges them, answers."""

    def __init__(self, place: Place, facts: Facts, folder: str, minutes: float, say: Callable[[str], None]) -> None:
        self.place, self.folder, self.minutes, self.say = place, folder, minutes, say
        self.present: dict[int, Facts] = {0: facts}
        self.channels: dict[int, Channel] = {}
        self.seen: dict[int, bool | None] = {}
        self.conflicts: list[str] = []  # ranks claimed twice, or other ideas of the number of processes
        self.surplus: list[Channel] = []

    def meet(self) -> Meeting:
        hub = Hub(_listen(self.place))
        try:
            with _token(self.folder) as (token, unwritable):
                self._collect(hub, token)
                decision = self._verdict(unwritable)
            self._answer(decision)
            if decision.refuses:
                raise (UserError if decision.mistakes else Lost)(decision.text())
        except BaseException:
            for channel in [*self.channels.values(), *self.surplus]:
                channel.close()
            raise
        finally:
            hub.close()
        return Meeting(tuple(self.present[rank] for rank in range(self.place.size)), self.channels, decision.warnings)

    def _collect(self, hub: Hub, token: str | None) -> None:
        deadline = time.monotonic() + 60 * self.minutes
        said, hurried = time.monotonic(), False
        while (len(self.present) + len(self.surplus) < self.place.size or self._looking()) and time.monotonic() < deadline:
            for channel, message in hub.poll(0.2):
                if message is None:
                    self._try(channel, {"hello": GREETING, "token": token})
                elif isinstance(message, Closed):
                    self._gone(channel)
                elif isinstance(message.get("facts"), dict) and channel.rank is None:
                    self._admit(channel, message["facts"])
                elif "seen" in message and channel.rank is not None:
                    self.seen[channel.rank] = message["seen"]
            if self.conflicts and not hurried:
                deadline, hurried = min(deadline, time.monotonic() + LATE_SECONDS), True
            if time.monotonic() - said > 15:
                said = time.monotonic()
                self.say(f"waiting for {verdict.ranks(set(range(self.place.size)) - set(self.present))} of {self.place.size}")

    def _looking(self) -> bool:
        """Whether a process that has arrived is still looking for the file in the run's folder."""
        return any(rank not in self.seen for rank in self.channels)

    def _admit(self, channel: Channel, facts: Facts) -> None:
        facts["ahead"] = facts["clock"] - time.time()
        rank, size, who = facts["rank"], facts["size"], f"{facts['host']} (process {facts['pid']})"
        if facts["attempt"] != self.place.attempt:
            # A leftover process must not stop the job that took its place.
            text = f"this process belongs to attempt {facts['attempt']}, but the job is at attempt {self.place.attempt}"
            self._try(channel, _verdict_message(Verdict(lost=(text,)), []))
            return
        if size != self.place.size:
            self.conflicts.append(
                f"rank {rank} on {who} says that there are {size} processes, the lead (rank 0) on {self.place.host} says {self.place.size}"
            )
        elif rank in self.present:
            other = self.present[rank]
            self.conflicts.append(
                f"rank {rank} is claimed twice: by {other['host']} (process {other['pid']}) and by {who}; give each its own rank"
            )
        else:
            channel.rank = rank
            self.present[rank], self.channels[rank] = facts, channel
            return
        self.surplus.append(channel)

    def _gone(self, channel: Channel) -> None:
        """A process that arrived has gone, killed while it waited for example: its place is free again."""
        if channel in self.surplus:
            self.surplus.remove(channel)
        elif channel.rank is not None:
            for by_rank in (self.present, self.channels, self.seen):
                by_rank.pop(channel.rank, None)

    def _verdict(self, unwritable: str | None) -> Verdict:
        if self.conflicts or unwritable:
            return Verdict(mistakes=(*self.conflicts, *([unwritable] if unwritable else [])))
        decision = verdict.judge(self.present, self.seen, self.folder)
        if len(self.present) == self.place.size:
            return decision
        absent = verdict.missing(self.place.size, self.present, self.place.hosts, self.minutes, self.place.coordinator or "")
        return dataclasses.replace(decision, lost=(absent + _reaches_itself(self.place),))

    def _answer(self, decision: Verdict) -> None:
        members = [] if decision.refuses else [self._member(rank) for rank in range(self.place.size)]
        message = _verdict_message(decision, members)
        for channel in [*self.channels.values(), *self.surplus]:
            self._try(channel, message)

    def _member(self, rank: int) -> Facts:
        """The facts that every rank needs of the others; their settings are equal by now."""
        return {key: value for key, value in self.present[rank].items() if key not in ("config", "stale")}

    @staticmethod
    def _try(channel: Channel, message: dict[str, Any]) -> None:
        with contextlib.suppress(Closed):  # the hub reports it next
            channel.send(message)


def _verdict_message(decision: Verdict, members: list[Facts]) -> dict[str, Any]:
    return {"verdict": dataclasses.asdict(decision), "members": members}


def _listen(place: Place) -> socket.socket:
    """A socket at the coordinator's port, on all addresses like JAX's own service unless the coordinator is this machine's loopback."""
    host, port = place.address
    loopback = host in LOOPBACK
    deadline = time.monotonic() + PORT_SECONDS
    while True:
        try:
            if loopback or not socket.has_dualstack_ipv6():
                return socket.create_server(("127.0.0.1" if loopback else "", port), backlog=4096)
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(f"port {port} of {place.host} (the coordinator's, {place.coordinator}): {error.strerror}") from error
            if time.monotonic() > deadline:
                raise UserError(
                    f"port {port} of {place.host} is in use by another process, and the coordinator {place.coordinator} needs it: "
                    "give another port, or end that process (`ss -ltnp` names it)"
                ) from error
            time.sleep(0.5)


@contextlib.contextmanager
def _token(folder: str) -> Iterator[tuple[str | None, str | None]]:
    """The name of a new file in the run's folder (None on object storage, which is always shared), and why it can't be written."""
    if "://" in folder:
        yield None, None
        return
    path = Path(folder).expanduser() / f".preflight-{uuid.uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        yield None, f"dir={folder}: the lead (rank 0) can't write there ({error.strerror}: {error.filename}); give another dir"
        return
    try:
        yield path.name, None
    finally:
        path.unlink(missing_ok=True)


def _reaches_itself(place: Place) -> str:
    """A hint if the coordinator's name doesn't lead to this process, which may be why nobody arrived."""
    host, port = place.address
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        return f". On {place.host}, the lead's own host, the name {host} does not resolve ({error})"
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError as error:
        return f". The lead on {place.host} can't reach itself at {host} ({address}), port {port}: {error.strerror or error}"
    return ""


# --- the others -------------------------------------------------------------------------------------------------------------------


def _follow(place: Place, facts: Facts, folder: str, minutes: float) -> Meeting:
    deadline = time.monotonic() + 60 * minutes
    channel, token = _connect(place, minutes)
    try:
        channel.send({"facts": facts | {"clock": time.time()}})
        channel.send({"seen": None if token is None else _sees(Path(folder).expanduser() / token)})
        # The lead may have started later, and so gives up later.
        answer = channel.receive(max(deadline - time.monotonic(), 0) + 60 * minutes + FOLDER_SECONDS + LATE_SECONDS)
        decision = Verdict(**{name: tuple(lines) for name, lines in answer["verdict"].items()})
    except (Closed, KeyError, TypeError) as error:
        channel.close()
        raise Lost(f"the lead (rank 0) at {place.coordinator} ended while the job gathered ({error}); its log says why") from error
    if decision.refuses:
        channel.close()
        raise (UserError if decision.mistakes else Lost)(decision.text())
    return Meeting(tuple(answer["members"]), {0: channel}, decision.warnings)


def _connect(place: Place, minutes: float) -> tuple[Channel, str | None]:
    """A channel to the lead and the name of the file to look for; tries until the deadline."""
    host, port = place.address
    start = time.monotonic()
    stranger = None
    while True:
        waited = time.monotonic() - start
        try:
            address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
        except OSError as error:
            if waited > min(RESOLVE_SECONDS, 60 * minutes):
                raise UserError(
                    f"the coordinator's name {host} does not resolve on {place.host} ({error}): give distributed.coordinator an address "
                    "or a name that every host knows (DNS or /etc/hosts)"
                ) from error
            time.sleep(0.5)
            continue
        try:
            channel = Channel(socket.create_connection((host, port), timeout=5))
            return _greeted(channel)
        except Closed as error:
            stranger = stranger or time.monotonic()
            if time.monotonic() - stranger > STRANGER_SECONDS:
                raise UserError(
                    f"what answers at {host} ({address}), port {port}, is not the lead ({error}): give the coordinator another port"
                ) from error
        except OSError as error:
            if waited > 60 * minutes:
                raise Lost(
                    f"rank {place.rank} on {place.host} could not reach the coordinator {host} ({address}), port {port}, for {minutes:g} "
                    f"minutes ({error.strerror or error}): check whether the lead (rank 0) runs there, and whether a firewall is in between"
                ) from error
        time.sleep(0.3)


def _greeted(channel: Channel) -> tuple[Channel, str | None]:
    try:
        hello = channel.receive(5)
        if hello.get("hello") != GREETING:
            raise Closed("it doesn't speak our protocol")
        return channel, hello.get("token")
    except Closed:
        channel.close()
        raise


def _sees(path: Path) -> bool:
    deadline = time.monotonic() + FOLDER_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        with contextlib.suppress(OSError):
            os.listdir(path.parent)  # makes a network disk look again
        time.sleep(0.2)
    return True
