"""Serves the page of a vote until Ctrl-C or SIGTERM."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import uvicorn

from alpaca_jax import listening, rundir
from alpaca_jax.evaluate.vote.app import Page
from alpaca_jax.terminal import Console


class Server(listening.Server):
    """uvicorn over a Page; where `ready` is given, the file holds {url, pid} while the page answers."""

    def __init__(self, page: Page, host: str, listener: socket.socket, console: Console, ready: Path | None = None) -> None:
        # uvicorn's own log_config would close the streams of other handlers; without it, its warnings reach stderr all the same.
        options: dict[str, Any] = {"log_config": None, "access_log": False, "lifespan": "off", "ws": "none"}
        super().__init__(uvicorn.Config(page.app(host), timeout_graceful_shutdown=2, **options))
        self.url = listening.url(host, listener)
        self._listener = listener
        self._console = console
        self._ready = ready

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answers requests until SIGINT or SIGTERM comes, the usual end, or `should_exit` is set."""
        try:
            asyncio.run(self.serve(sockets=[self._listener]))
        finally:
            if self._ready is not None:
                self._ready.unlink(missing_ok=True)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Opens the page, then says so."""
        await super().startup(sockets=sockets)
        if self._ready is not None:
            rundir.write_json(self._ready, {"url": self.url, "pid": os.getpid()})
        self._console.print(f"vote here: {self.url} (Ctrl-C ends it and shows the results)", highlight=False)
