"""Continuous batching: one thread owns the batch, takes requests in as slots get free, and hands out tokens as they come.

Prompts whose own tokens are to be scored are read in between, by the same thread: both kinds of work get half of its time.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.generation import BASE, Generation, Options, Token
from alpaca_jax.decode.reading import Reading
from alpaca_jax.decode.scoring import Scoring

Deliver = Callable[[list[Token], str | None], None]


class Job:
    """One sequence that somebody waits for. `deliver(tokens, finish_reason)` is called in the scheduler's thread."""

    def __init__(self, prompt: Sequence[int], options: Options, deliver: Deliver) -> None:
        self.prompt = prompt
        self.options = options
        self.deliver = deliver
        self.generation: Generation | None = None
        self.delivered = 0  # tokens


class ScoringJob:
    """A row that somebody wants scored. `deliver(done)` is called once in the scheduler's thread; False: it was given up."""

    def __init__(self, reading: Reading, deliver: Callable[[bool], None]) -> None:
        self.reading = reading
        self.deliver = deliver


class Scheduler:
    """Runs `batch` and `scoring` in a thread of its own until `stop`, or until an error, which is then `failure`."""

    def __init__(self, batch: Batch, scoring: Scoring) -> None:
        self.failure: Exception | None = None
        self._batch = batch
        self._scoring = scoring
        # What other threads want done, in order: a job with True (take it in) or False (drop it), or None (end).
        self._inbox: queue.SimpleQueue[tuple[Job | ScoringJob, bool] | None] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._running: dict[Generation, Job] = {}
        self._scored: dict[Reading, ScoringJob] = {}
        self._owed = 0.0  # seconds that scoring has had more than decoding
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence, prompt and answer."""
        return self._batch.max_length

    def start(self, on_end: Callable[[], None] = lambda: None) -> None:
        """Starts the thread; `on_end` is called as its last act."""
        self._thread = threading.Thread(target=self._main, args=(on_end,), name="scheduler", daemon=True)
        self._thread.start()

    def submit(self, job: Job | ScoringJob) -> None:
        """Queues a job; its prompt must leave room for a token. After `stop` it is answered "abort" at once."""
        self._inbox.put((job, True))
        if self._stopped.is_set():
            _abort(job)

    def reading(self, ids: Sequence[int], start: int, top: int, beyond: bool, adapter: int = BASE) -> Reading:
        """What a `ScoringJob` takes; see `Scoring.reading`."""
        return self._scoring.reading(ids, start, top, beyond, adapter)

    def cancel(self, job: Job | ScoringJob) -> None:
        """Drops a job, whether waiting, running or long finished; it may deliver once more."""
        self._inbox.put((job, False))

    def stop(self) -> None:
        """Ends the thread after the step it is in; every unfinished job is delivered the finish reason "abort"."""
        self._stopped.set()
        self._inbox.put(None)

    def join(self, timeout: float | None = None) -> None:
        """Waits until the thread has ended, at most `timeout` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _main(self, on_end: Callable[[], None]) -> None:
        try:
            while self._take_orders():
                while self._waiting and self._batch.free:
                    job = self._waiting.popleft()
                    job.generation = self._batch.admit(job.prompt, job.options)
                    self._running[job.generation] = job
                started = time.monotonic()
                for generation in self._batch.step():
                    self._hand_out(generation)
                self._score(time.monotonic() - started)
        except Exception as error:
            self.failure = error
        finally:
            self._stopped.set()
            jobs: list[Job | ScoringJob] = [*self._waiting, *self._running.values(), *self._scored.values(), *self._left_over()]
            for left in jobs:
                _abort(left)
            on_end()

    def _score(self, decoding: float) -> None:
        """Reads a piece of what is to be scored, if decoding has had as many seconds as the last one took, or has nothing to do."""
        self._owed -= decoding
        if not self._scoring.busy or (self._running and self._owed > 0):
            return
        started = time.monotonic()
        for reading in self._scoring.step():
            self._scored.pop(reading).deliver(True)
        self._owed = time.monotonic() - started

    def _take_orders(self) -> bool:
        """Does what the inbox asks for, waiting for it where there is nothing else to do; False: the end."""
        idle = self._idle
        while True:
            try:
                order = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if order is None:
                return False
            job, wanted = order
            if not wanted:
                self._drop(job)
            elif isinstance(job, ScoringJob):
                self._scored[job.reading] = job
                self._scoring.admit(job.reading)
            else:
                self._waiting.append(job)
            idle = self._idle

    @property
    def _idle(self) -> bool:
        return not (self._waiting or self._running or self._scored)

    def _drop(self, job: Job | ScoringJob) -> None:
        if isinstance(job, ScoringJob):
            if self._scored.pop(job.reading, None) is not None:
                self._scoring.release(job.reading)
        elif job in self._waiting:
            self._waiting.remove(job)
        elif job.generation in self._running:
            self._batch.release(job.generation)
            del self._running[job.generation]

    def _hand_out(self, generation: Generation) -> None:
        job = self._running[generation]
        job.deliver(generation.tokens[job.delivered :], generation.finish_reason)
        job.delivered = len(generation.tokens)
        if generation.finish_reason is not None:
            del self._running[generation]

    def _left_over(self) -> list[Job | ScoringJob]:
        jobs: list[Job | ScoringJob] = []
        while not self._inbox.empty():
            order = self._inbox.get()
            if order is not None and order[1]:
                jobs.append(order[0])
        return jobs


def _abort(job: Job | ScoringJob) -> None:
    if isinstance(job, ScoringJob):
        job.deliver(False)
    else:
        job.deliver([], "abort")
