"""A port of this machine on which a verb answers, and the server that answers there until a signal comes."""

import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Iterator

import uvicorn

from alpaca_jax.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost")


def listen(host: str, port: int, group: str = "") -> socket.socket:
    """Returns a listening socket; a UserError where there can't be one, which names the keys as those of `group`, such as "vote."."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # asyncio sends at once (TCP_NODELAY) on what it knows to be TCP only; else an answer after the first waits 40 ms for an ACK.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server just ended leaves its port waiting
            listener.bind(address)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: f"something else listens on {host}:{port}; give another port, or {group}port=0 for any free one",
            errno.EACCES: f"this user may not listen there; give a port from 1024 on, or {group}port=0 for any free one",
        }
        if error.errno in reasons:
            raise UserError(f"{group}port={port}: {reasons[error.errno]}") from error
        raise UserError(f"{group}host={host}: can't listen there ({error.strerror or error}); give an address of this machine") from error
    return listener


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches `host`."""
    return host in LOOPBACK or host == "::1"


def url(host: str, listener: socket.socket) -> str:
    """Returns the address for a browser on this machine."""
    address = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{address}]' if ':' in address else address}:{listener.getsockname()[1]}"


class Server(uvicorn.Server):
    """uvicorn, but SIGINT and SIGTERM end it as `signalled` says; uvicorn would raise them again once it has ended."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes SIGINT and SIGTERM while the server runs."""
        if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread: a test, a notebook
            yield
            return
        before = {number: signal.signal(number, self.signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def signalled(self, number: int, frame: object) -> None:
        """Ends the server."""
        self.should_exit = True
