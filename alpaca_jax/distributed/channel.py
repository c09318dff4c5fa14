"""A connection between two processes of a job: JSON objects, one per line."""

import json
import selectors
import socket
import threading
from collections.abc import Iterator
from typing import Any

MOST_BYTES = 16 << 20  # of one line: a stranger's endless line must not fill the memory
_SEND_SECONDS = 10.0
Message = dict[str, Any]


class Closed(ConnectionError):
    """The other side is gone, or is not a process of this job."""


class Channel:
    """One connection; any thread may send, one thread receives."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.rank: int | None = None
        connection.settimeout(_SEND_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sending = threading.Lock()
        self._rest = b""
        self._waiting: list[Message] = []  # arrived, but not received yet

    def keep_alive(self, seconds: int) -> None:
        """Has the kernel detect within about `seconds` that a peer's host or link is down; a busy or stopped process counts as alive."""
        options = {"TCP_KEEPIDLE": max(1, seconds // 3), "TCP_KEEPINTVL": max(1, seconds // 6), "TCP_KEEPCNT": 4}
        options["TCP_USER_TIMEOUT"] = 1000 * seconds
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(socket, name):  # Linux has all of them, other systems some
                self.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Message) -> None:
        """Sends `message`; raises Closed if the other side is gone."""
        with self._sending:
            try:
                self.socket.sendall(json.dumps(message).encode() + b"\n")
            except OSError as error:
                raise Closed(str(error)) from error

    def take(self) -> list[Message]:
        """Returns the messages that have arrived, waiting for the first bytes; raises Closed at the end of the connection."""
        try:
            data = self.socket.recv(1 << 16)
        except OSError as error:
            raise Closed(error.strerror or str(error)) from error
        if not data:
            raise Closed("the connection ended")
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MOST_BYTES:
            raise Closed("a line is too long to be ours")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError as error:
            raise Closed("what arrived is not JSON") from error
        if not all(isinstance(message, dict) for message in messages):
            raise Closed("what arrived is not a message")
        return messages

    def receive(self, seconds: float) -> Message:
        """Returns the next message; raises Closed if none arrives within `seconds`."""
        while not self._waiting:
            self.socket.settimeout(seconds)
            try:
                self._waiting += self.take()
            finally:
                self.socket.settimeout(_SEND_SECONDS)
        return self._waiting.pop(0)

    def waiting(self) -> list[Message]:
        """Returns what has arrived but was not received, for whoever listens from now on."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def close(self) -> None:
        """Closes the connection."""
        self.socket.close()


class Hub:
    """Many channels, and a listener for new ones."""

    def __init__(self, listener: socket.socket | None = None) -> None:
        self._selector = selectors.DefaultSelector()
        self._listener = listener
        self._early: list[tuple[Channel, Message]] = []
        if listener is not None:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, None)

    def add(self, channel: Channel) -> None:
        """Listens to one more channel."""
        self._selector.register(channel.socket, selectors.EVENT_READ, channel)
        self._early += [(channel, message) for message in channel.waiting()]

    def drop(self, channel: Channel) -> None:
        """Closes a channel."""
        self._selector.unregister(channel.socket)
        channel.close()

    def stop_listening(self) -> None:
        """Closes the listener, so that its port is free for another; the channels stay."""
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        """Stops listening; the channels stay open."""
        self.stop_listening()
        self._selector.close()

    def poll(self, seconds: float) -> Iterator[tuple[Channel, Message | Closed | None]]:
        """Yields what arrives within `seconds`: messages, Closed at a channel's end (it is dropped), None for a new channel."""
        early, self._early = self._early, []
        yield from early
        for key, _ in self._selector.select(0 if early else seconds):
            if key.data is None:
                try:
                    connection, _ = key.fileobj.accept()  # type: ignore[union-attr]
                except OSError:
                    continue
                channel = Channel(connection)
                self.add(channel)
                yield channel, None
                continue
            channel = key.data
            if channel.socket.fileno() < 0:
                continue  # dropped by the caller while it handled an earlier one
            try:
                messages = channel.take()
            except Closed as error:
                self.drop(channel)
                yield channel, error
                continue
            for message in messages:
                yield channel, message
