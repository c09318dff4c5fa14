"""The processes of a job meet before JAX does: who is there, and whether all agree. What is wrong is the same error in every process.

Rank 0 listens at the coordinator's own port, so that a port in use is found and said; the others connect, tell their facts, look for a
file that rank 0 has written to the run's folder, and get one verdict. The connections stay open behind it: they are the job's line.
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
RESOLVE_SECONDS = 60.0  # a name that does not resolve for so long never will; a pod's takes some seconds
STRANGER_SECONDS = 20.0  # what answers wrongly for so long is no earlier attempt that is about to end
PORT_SECONDS = 10.0  # an earlier attempt's port may take so long to be free
FOLDER_SECONDS = 15.0  # a network disk may show a new file so late
LATE_SECONDS = 5.0  # once something is wrong, those on their way are waited for so long, to be told as well


@dataclasses.dataclass(frozen=True)
class Meeting:
    """All have come and agree. `members` are their facts by rank; rank 0 holds a channel to each other rank, these one to rank 0."""

    members: tuple[Facts, ...]
    channels: dict[int, Channel]
    warnings: tuple[str, ...] = ()


def meet(place: Place, facts: Facts, folder: str, minutes: float, tell: Callable[[str], None]) -> Meeting:
    """Returns when all processes are here and agree; the same UserError or Lost in each of them where they don't.

    `folder` is the run's; `tell` gets a line now and then about who is waited for.
    """
    return _Lead(place, facts, folder, minutes, tell).meet() if place.rank == 0 else _follow(place, facts, folder, minutes)


# --- rank 0 -----------------------------------------------------------------------------------------------------------------------


class _Lead:
    """Rank 0's side: collects, judges, answers."""

    def __init__(self, place: Place, facts: Facts, folder: str, minutes: float, tell: Callable[[str], None]) -> None:
        self.place, self.folder, self.minutes, self.tell = place, folder, minutes, tell
        self.come: dict[int, Facts] = {0: facts}
        self.channels: dict[int, Channel] = {}
        self.seen: dict[int, bool | None] = {}
        self.doubles: list[str] = []
        self.surplus: list[Channel] = []

    def meet(self) -> Meeting:
        hub = Hub(_listen(self.place))
        try:
            with _token(self.folder) as (token, unwritable):
                self._collect(hub, token)
                found = self._verdict(unwritable)
            self._answer(found)
            if found.refuses:
                raise (UserError if found.mistakes else Lost)(found.text())
        except BaseException:
            for channel in [*self.channels.values(), *self.surplus]:
                channel.close()
            raise
        finally:
            hub.close()
        return Meeting(tuple(self.come[rank] for rank in range(self.place.size)), self.channels, found.warnings)

    def _collect(self, hub: Hub, token: str | None) -> None:
        deadline = time.monotonic() + 60 * self.minutes
        told, hurried = time.monotonic(), False
        while (len(self.come) + len(self.surplus) < self.place.size or self._looking()) and time.monotonic() < deadline:
            for channel, message in hub.poll(0.2):
                if message is None:
                    self._try(channel, {"hello": GREETING, "token": token})
                elif isinstance(message, Closed):
                    self._gone(channel)
                elif isinstance(message.get("facts"), dict) and channel.rank is None:
                    self._admit(channel, message["facts"])
                elif "seen" in message and channel.rank is not None:
                    self.seen[channel.rank] = message["seen"]
            if self.doubles and not hurried:
                deadline, hurried = min(deadline, time.monotonic() + LATE_SECONDS), True
            if time.monotonic() - told > 15:
                told = time.monotonic()
                self.tell(f"waiting for {verdict.ranks(set(range(self.place.size)) - set(self.come))} of {self.place.size}")

    def _looking(self) -> bool:
        """Whether one that has come still looks for the file in the run's folder."""
        return any(rank not in self.seen for rank in self.channels)

    def _admit(self, channel: Channel, facts: Facts) -> None:
        facts["ahead"] = facts["clock"] - time.time()
        rank, size, who = facts["rank"], facts["size"], f"{facts['host']} (process {facts['pid']})"
        if facts["attempt"] != self.place.attempt:
            # One that is left from before must not stop the job that took its place.
            text = f"this process is of attempt {facts['attempt']}, the job is at attempt {self.place.attempt}"
            self._try(channel, _verdict_message(Verdict(lost=(text,)), []))
            return
        if size != self.place.size:
            self.doubles.append(
                f"rank {rank} on {who} says that there are {size} processes, rank 0 on {self.place.host} says {self.place.size}"
            )
        elif rank in self.come:
            other = self.come[rank]
            self.doubles.append(
                f"rank {rank} is claimed twice: by {other['host']} (process {other['pid']}) and by {who}; give each its own"
            )
        else:
            channel.rank = rank
            self.come[rank], self.channels[rank] = facts, channel
            return
        self.surplus.append(channel)

    def _gone(self, channel: Channel) -> None:
        """One that came and left, such as a process that was killed while it waited: its place is free again."""
        if channel in self.surplus:
            self.surplus.remove(channel)
        elif channel.rank is not None:
            for kept in (self.come, self.channels, self.seen):
                kept.pop(channel.rank, None)

    def _verdict(self, unwritable: str | None) -> Verdict:
        if self.doubles or unwritable:
            return Verdict(mistakes=(*self.doubles, *([unwritable] if unwritable else [])))
        found = verdict.judge(self.come, self.seen, self.folder)
        if len(self.come) == self.place.size:
            return found
        absent = verdict.missing(self.place.size, self.come, self.place.hosts, self.minutes, self.place.coordinator or "")
        return dataclasses.replace(found, lost=(absent + _reaches_itself(self.place),))

    def _answer(self, found: Verdict) -> None:
        members = [] if found.refuses else [self._member(rank) for rank in range(self.place.size)]
        message = _verdict_message(found, members)
        for channel in [*self.channels.values(), *self.surplus]:
            self._try(channel, message)

    def _member(self, rank: int) -> Facts:
        """What every rank needs to know of the others; their settings are equal by now."""
        return {key: value for key, value in self.come[rank].items() if key not in ("config", "stale")}

    @staticmethod
    def _try(channel: Channel, message: dict[str, Any]) -> None:
        with contextlib.suppress(Closed):  # the hub says it next
            channel.send(message)


def _verdict_message(found: Verdict, members: list[Facts]) -> dict[str, Any]:
    return {"verdict": dataclasses.asdict(found), "members": members}


def _listen(place: Place) -> socket.socket:
    """The socket at the coordinator's port; on all addresses, as JAX's own service, unless the coordinator is this machine's loopback."""
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
                    "give another port, or end what has it (`ss -ltnp` names it)"
                ) from error
            time.sleep(0.5)


@contextlib.contextmanager
def _token(folder: str) -> Iterator[tuple[str | None, str | None]]:
    """The name of a new file in the run's folder (None: object storage, shared by its nature), and why it can't be written."""
    if "://" in folder:
        yield None, None
        return
    path = Path(folder).expanduser() / f".preflight-{uuid.uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        yield None, f"dir={folder}: can't be written by rank 0 ({error.strerror}: {error.filename}); give another dir"
        return
    try:
        yield path.name, None
    finally:
        path.unlink(missing_ok=True)


def _reaches_itself(place: Place) -> str:
    """A hint where the coordinator's name doesn't lead to rank 0, which may be why nobody came."""
    host, port = place.address
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        return f". On {place.host}, rank 0's own host, the name {host} does not resolve ({error})"
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError as error:
        return f". Rank 0 on {place.host} itself is not reached at {host} ({address}), port {port}: {error.strerror or error}"
    return ""


# --- the others -------------------------------------------------------------------------------------------------------------------


def _follow(place: Place, facts: Facts, folder: str, minutes: float) -> Meeting:
    deadline = time.monotonic() + 60 * minutes
    channel, token = _connect(place, minutes)
    try:
        channel.send({"facts": facts | {"clock": time.time()}})
        channel.send({"seen": None if token is None else _sees(Path(folder).expanduser() / token)})
        # Rank 0 may have begun later, and so gives up later.
        answer = channel.receive(max(deadline - time.monotonic(), 0) + 60 * minutes + FOLDER_SECONDS + LATE_SECONDS)
        found = Verdict(**{name: tuple(lines) for name, lines in answer["verdict"].items()})
    except (Closed, KeyError, TypeError) as error:
        channel.close()
        raise Lost(f"rank 0 at {place.coordinator} went away while the job gathered ({error}); its log says why") from error
    if found.refuses:
        channel.close()
        raise (UserError if found.mistakes else Lost)(found.text())
    return Meeting(tuple(answer["members"]), {0: channel}, found.warnings)


def _connect(place: Place, minutes: float) -> tuple[Channel, str | None]:
    """A channel to rank 0 and the name of the file that it wants looked for; tries until the deadline."""
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
                    f"at {host} ({address}), port {port}, something else than rank 0 answers ({error}): give the coordinator another port"
                ) from error
        except OSError as error:
            if waited > 60 * minutes:
                raise Lost(
                    f"rank {place.rank} on {place.host} could not reach the coordinator {host} ({address}), port {port}, for {minutes:g} "
                    f"minutes ({error.strerror or error}): look whether rank 0 runs there, and whether a firewall is between"
                ) from error
        time.sleep(0.3)


def _greeted(channel: Channel) -> tuple[Channel, str | None]:
    try:
        hello = channel.receive(5)
        if hello.get("hello") != GREETING:
            raise Closed("it does not greet as we do")
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
            os.listdir(path.parent)  # has a network disk look anew
        time.sleep(0.2)
    return True
