"""The connections between the processes of a running job: who was lost, who failed, when to stop, and whether all are done.

The connections of the preflight stay open, as a star around the lead. The kernel closes one as soon as its process dies, so a loss is known
within a second, with rank and host; JAX's own service takes up to its heartbeat and names only a number. A thread listens, so nothing here
waits for a step. The thread also ends this process, since the main thread may hang in a collective.
"""

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from alpaca_jax.distributed.channel import Channel, Closed, Hub, Message
from alpaca_jax.distributed.facts import Facts
from alpaca_jax.distributed.preflight import Meeting
from alpaca_jax.errors import Lost

LINGER_SECONDS = 6.0  # the lead waits at most this long until the others are gone, since JAX aborts every process that loses it
END = "the end of the run"
OWN_SECONDS = 3.0  # a process that hears of another's failure may be about to fail itself, with a better message


class Line:
    """This process's end of the line."""

    def __init__(self, rank: int, meeting: Meeting, heartbeat_seconds: int, end: Callable[[int], NoReturn] = os._exit) -> None:
        self.rank, self.members, self._channels, self._exit = rank, meeting.members, dict(meeting.channels), end
        self.size = len(meeting.members)
        self.failing = False  # this process has begun to fail: it reports that, and ends, by itself
        self.stop: Message | None = None  # who asked for a stop, and why
        self.stopped = False  # all have stopped at the same step
        self.over = False
        self._changed = threading.Condition()
        self._hub = Hub()
        self._gathering: dict[str, dict[int, Any]] = {}  # on the lead: the values of unfinished gathers
        self._gathered: dict[str, list[Any]] = {}
        self._checks, self._last = 0, 0  # calls of `stop_now`, and the one at which all stop (0: not agreed yet)
        self._ended: Message | None = None
        self._heartbeat = heartbeat_seconds
        self._heard = dict.fromkeys(self._channels, time.monotonic())
        self._missed: set[int] = set()
        for peer, channel in self._channels.items():
            channel.rank = peer
            channel.keep_alive(heartbeat_seconds)
            self._hub.add(channel)
        self._thread = threading.Thread(target=self._guarded, name="line", daemon=True)
        self._thread.start()

    # --- for the main thread ---

    def gather(self, name: str, value: Any, seconds: float) -> list[Any]:
        """Returns the values of all ranks once all have called this with `name`; raises Lost after `seconds`."""
        self._to_lead({"gather": name, "value": value})
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._gathered, seconds):
                raise Lost(f"rank {self.rank} on {self._host(self.rank)}: not all processes reached {name!r} within {seconds:.0f} s")
            return self._gathered.pop(name)

    def ask_to_stop(self, why: str, signal: int | None) -> None:
        """Asks all processes, this one included, to stop at the same step."""
        self._to_lead({"stop": f"{why} on rank {self.rank} ({self._host(self.rank)})", "signal": signal})

    def stop_now(self) -> bool:
        """Whether to stop. Every process calls it after every step, and it is true in all of them after the same step.

        It costs nothing until somebody asks for a stop. Then each process reports its number of steps and waits for the answer: one more
        than the largest number. The threads exchange these messages, so no process waits for another's step.
        """
        with self._changed:
            self._checks += 1
            if self.stop is not None:
                self._changed.wait_for(lambda: self._last > 0)
                self.stopped = self._checks >= self._last
            return self.stopped

    def fail(self, code: int, text: str) -> None:
        """Tells the others that this process will exit with `code`, and why; the caller ends it."""
        self.failing = True
        with contextlib.suppress(Closed):
            self._to_lead({"failed": text, "code": code, "rank": self.rank})

    def linger(self) -> None:
        """Returns once the last message has reached the others: on the lead, once they are gone."""
        deadline = time.monotonic() + LINGER_SECONDS
        while self.rank == 0 and self._channels and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)

    def leave(self, seconds: float) -> None:
        """Returns once every process is done; from then on the end of a connection means nothing."""
        self.gather(END, None, seconds)

    def close(self) -> None:
        """Closes the connections."""
        self.over = True
        self._thread.join(5)
        for channel in self._channels.values():
            channel.close()

    @property
    def news(self) -> Message | None:
        """The message of the process that ended the job; None if no other did."""
        return self._ended

    # --- the thread ---

    def _guarded(self) -> None:
        try:
            self._listen()
        except Exception:  # without a listener the job could hang
            traceback.print_exc()
            self._exit(1)

    def _listen(self) -> None:
        beaten = 0.0
        while not self.over:
            for channel, message in self._hub.poll(0.5):
                if isinstance(message, Closed):
                    self._gone(channel, message)
                elif message is not None:
                    assert channel.rank is not None
                    self._heard[channel.rank] = time.monotonic()
                    self._take(message)
            if time.monotonic() - beaten > self._heartbeat / 6:
                beaten = time.monotonic()
                self._send_all({"alive": True})
                self._look_for_silence()

    def _take(self, message: Message) -> None:
        """Acts on a message; the lead passes on what the others must know."""
        if "gather" in message:
            self._collect(message["gather"], message["rank"], message["value"])
        elif "gathered" in message:
            self._put(message["gathered"], message["values"])
        elif "stop" in message:
            self._begin_to_stop(message)
        elif "failed" in message or "lost" in message:
            self._end(message)

    def _to_lead(self, message: Message) -> None:
        message = message | {"rank": self.rank}
        if self.rank == 0:
            self._take(message)
        else:
            self._channels[0].send(message)

    def _send_all(self, message: Message) -> None:
        for channel in list(self._channels.values()):
            with contextlib.suppress(Closed):  # the hub reports it next
                channel.send(message)

    def _collect(self, name: str, rank: int, value: Any) -> None:
        with self._changed:
            values = self._gathering.setdefault(name, {})
            values[rank] = value
            if len(values) < self.size:
                return
            del self._gathering[name]
        in_order = [values[rank] for rank in range(self.size)]
        self.over = self.over or name == END  # before the others get it and leave
        self._send_all({"gathered": name, "values": in_order})
        self._put(name, in_order)

    def _put(self, name: str, values: list[Any]) -> None:
        self.over = self.over or name == END
        with self._changed:
            if name == "passed":
                self._last = max(values) + 1
            else:
                self._gathered[name] = values
            self._changed.notify_all()

    def _begin_to_stop(self, message: Message) -> None:
        with self._changed:
            if self.stop is not None:
                return
            self.stop = message
            passed = self._checks
        if self.rank == 0:
            self._send_all(message)
        with contextlib.suppress(Closed):
            self._to_lead({"gather": "passed", "value": passed})

    def _look_for_silence(self) -> None:
        """Names a silent process before JAX's service ends the job because of it, without a name."""
        now = time.monotonic()
        for rank, heard in self._heard.items():
            if now - heard < self._heartbeat / 2:
                self._missed.discard(rank)
            elif rank not in self._missed:
                self._missed.add(rank)
                _say(
                    f"rank {rank} on {self._host(rank)} (process {self.members[rank]['pid']}) has been silent for {now - heard:.0f} s: "
                    f"it is stopped or cut off; the job ends after {self._heartbeat} s of silence"
                )

    def _gone(self, channel: Channel, reason: Closed) -> None:
        rank = channel.rank
        assert rank is not None
        self._channels.pop(rank, None)
        self._heard.pop(rank, None)
        if not self.over and not self.failing:
            self._end({"lost": str(reason), "code": Lost.exit_code, "rank": rank})

    def _end(self, message: Message) -> None:
        """Another process failed or was lost: this one exits with its code, unless it is failing itself."""
        if self._ended is not None:
            return
        self._ended = message
        if self.rank == 0:
            self._send_all(message)
        if "failed" in message:
            deadline = time.monotonic() + OWN_SECONDS
            while not self.failing and time.monotonic() < deadline:
                time.sleep(0.05)
        if self.failing:
            return
        rank, host = message["rank"], self._host(message["rank"])
        if "failed" in message:
            _say(f"rank {rank} on {host} failed and ends the job: {message['failed']}")
        else:
            _say(
                f"rank {rank} on {host} (process {self.members[rank]['pid']}) was lost: {message['lost']}; start the job again to continue"
            )
        deadline = time.monotonic() + LINGER_SECONDS
        while self.rank == 0 and self._channels and time.monotonic() < deadline:
            for channel, last in self._hub.poll(0.2):
                if isinstance(last, Closed) and channel.rank is not None:
                    self._channels.pop(channel.rank, None)
        sys.stdout.flush()
        self._exit(message["code"])

    def _host(self, rank: int) -> str:
        facts: Facts = self.members[rank]
        return facts["host"]


def _say(text: str) -> None:
    print(f"alpaca-jax: {text}", file=sys.stderr, flush=True)
