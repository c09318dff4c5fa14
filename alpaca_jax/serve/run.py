"""`alpaca-jax serve`: loads a model and answers until it is told to end."""

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import uvicorn

from alpaca_jax import listening, rundir
from alpaca_jax.decode import ahead, weights
from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.program import Program
from alpaca_jax.decode.scoring import Scoring
from alpaca_jax.decode.sides import Served
from alpaca_jax.decode.weights import Weights
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.serve import models
from alpaca_jax.serve.app import Service
from alpaca_jax.serve.config import Config
from alpaca_jax.serve.models import Model
from alpaca_jax.serve.scheduler import Scheduler
from alpaca_jax.sharding import Layout
from alpaca_jax.terminal import Console

console = Console(stderr=True)


def run(config: Config) -> None:
    """Serves `config.model` until SIGTERM or the end of `config.parent`, or Ctrl-C (KeyboardInterrupt); UserError for a port in use."""
    ready = Path(config.ready).expanduser() if config.ready is not None else None
    if ready is not None:
        ready.unlink(missing_ok=True)  # of a server that was killed
    _follow(config.parent)
    # Bound before the model is loaded: a port in use is heard of at once.
    with listening.listen(config.host, config.port) as listener:
        if not listening.is_loopback(config.host):
            console.print(f"host={config.host}: everyone who reaches this address can use the model, there is no key", style="yellow")
        service, scheduler = _load(config)
        Server(service, scheduler, config.host, listener, ready).run()


def _load(config: Config) -> tuple[Service, Scheduler]:
    started = time.monotonic()
    opened = pretrained.open(config.model)
    console.print(f"loading {opened.source}", highlight=False)
    # There is no use in storing weights wider than they are computed with.
    model = config.model.settled()
    dtype = model.compute_dtype if model.dtype == "float32" else model.dtype
    program = Program.on(opened.architecture, Layout.of_one_device(), dtype)
    name = config.name or _name(opened.source)
    adapters = models.opened(config.adapters, opened, name)
    for each in adapters:
        if each.note:
            console.print(each.note, style="yellow", highlight=False)
    own = _weights(opened, program, [each.served for each in adapters])
    console.print(f"loaded in {time.monotonic() - started:.1f} s", highlight=False)
    scheduler = Scheduler(Batch(program, own, config.slots, config.max_length), Scoring(program, own, config.max_length))
    base = Model(name, opened.tokenizer, frozenset(opened.eos_ids))
    served = [base, *(each.model(number) for number, each in enumerate(adapters, 1))]
    return Service(served, opened.architecture.vocab_size, scheduler), scheduler


def _weights(opened: Pretrained, program: Program, adapters: Sequence[Served]) -> Weights:
    """The weights, with the programs compiled, so that the first answer doesn't wait for them."""
    a, dtype, fused = opened.architecture, program.dtype, program.tuning.columns
    besides = weights.beside(a, adapters, opened.read, dtype, fused) if adapters else None
    with_adapters = lambda own: own if besides is None else weights.with_adapters(own, besides)  # noqa: E731
    if not fused:
        own = with_adapters(weights.unstacked(a, pretrained.load_params(opened, dtype)))
        ahead.compile_smallest(program, own)
        return own
    with ThreadPoolExecutor(1) as pool:  # the weights are read in the meantime
        compiled = pool.submit(lambda: ahead.compile_smallest(program, with_adapters(weights.blank(a, dtype))))
        own = weights.fused(a, functools.partial(pretrained.read_weight, opened, dtype=dtype), dtype, threads=os.cpu_count() or 1)
        compiled.result()
    return with_adapters(own)


def _name(source: str) -> str:
    """A known name or ORG/NAME as it is; a file's name without its ending; of `runs/NAME/hf` the NAME."""
    path = Path(source).expanduser()
    if not path.exists():
        return source
    path = path.resolve()
    return path.parent.name if path.name in ("hf", "train") else path.stem if path.is_file() else path.name


class Server(listening.Server):
    """uvicorn with our own ending: signals stop the scheduler first, so that open requests end and the server can."""

    def __init__(self, service: Service, scheduler: Scheduler, host: str, listener: socket.socket, ready: Path | None = None) -> None:
        super().__init__(
            uvicorn.Config(service.app(host), log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=5, ws="none")
        )
        self._service = service
        self._scheduler = scheduler
        self._ready = ready
        self._listener = listener
        self._interrupted = False
        self.url = listening.url(host, listener)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answers requests until `end` or a signal; raises what ended the scheduler early."""
        self._scheduler.start(on_end=self.end)
        try:
            asyncio.run(self.serve(sockets=[self._listener]))
        finally:
            self._scheduler.stop()
            self._scheduler.join()
        if self._scheduler.failure is not None:
            raise self._scheduler.failure
        if self._interrupted:
            raise KeyboardInterrupt

    def end(self) -> None:
        """Ends the server, from any thread."""
        self._scheduler.stop()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Opens the endpoint, then says so."""
        await super().startup(sockets=sockets)
        if self._ready is not None:
            ready = {"base_url": f"{self.url}/v1", "model": self._service.name, "pid": os.getpid()}
            await asyncio.to_thread(rundir.write_json, self._ready, ready)
        console.print(f"chat with {self._service.name}: {self.url}", highlight=False)
        names = " | ".join(self._service.models.names)
        console.print(f"OpenAI-compatible endpoint: base_url={self.url}/v1 model={names} (Ctrl-C ends it)", highlight=False)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes the endpoint once the scheduler has handed out its last word, which needs the event loop."""
        if self._ready is not None:
            self._ready.unlink(missing_ok=True)
        self._scheduler.stop()
        await asyncio.to_thread(self._scheduler.join)
        await super().shutdown(sockets=sockets)

    def signalled(self, number: int, frame: object) -> None:
        """Ends the server; a second signal doesn't wait for open requests."""
        self.force_exit = self.should_exit
        self._interrupted |= number == signal.SIGINT
        self.end()


def _follow(parent: int | None) -> None:
    """Ends this process when the process `parent` is gone, however that ended."""
    if parent is None:
        return

    def watch(process: psutil.Process | None) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            # One that was killed stays as a zombie until its own parent has asked for it.
            while process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.5)
        print(f"process {parent}, for which this server runs, is gone", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    process = psutil.Process(parent) if psutil.pid_exists(parent) else None
    threading.Thread(target=watch, args=(process,), name="parent", daemon=True).start()
