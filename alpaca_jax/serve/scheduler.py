"""Continuous batching: one thread owns the batch, takes requests in as slots get free, and hands out tokens as they come."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence

from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.generation import Generation, Options, Token

Deliver = Callable[[list[Token], str | None], None]


class Job:
    """One sequence that somebody waits for. `deliver(tokens, finish_reason)` is called in the scheduler's thread."""

    def __init__(self, prompt: Sequence[int], options: Options, deliver: Deliver) -> None:
        self.prompt = prompt
        self.options = options
        self.deliver = deliver
        self.generation: Generation | None = None
        self.delivered = 0  # tokens


class Scheduler:
    """Runs `batch` in a thread of its own until `stop`, or until an error, which is then `failure`."""

    def __init__(self, batch: Batch) -> None:
        self.failure: Exception | None = None
        self._batch = batch
        # What other threads want done, in order: a job with True (take it in) or False (drop it), or None (end).
        self._inbox: queue.SimpleQueue[tuple[Job, bool] | None] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._running: dict[Generation, Job] = {}
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

    def submit(self, job: Job) -> None:
        """Queues a job; its prompt must leave room for a token. After `stop` it is answered "abort" at once."""
        self._inbox.put((job, True))
        if self._stopped.is_set():
            job.deliver([], "abort")

    def cancel(self, job: Job) -> None:
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
                for generation in self._batch.step():
                    self._hand_out(generation)
        except Exception as error:
            self.failure = error
        finally:
            self._stopped.set()
            for job in [*self._waiting, *self._running.values(), *self._left_over()]:
                job.deliver([], "abort")
            on_end()

    def _take_orders(self) -> bool:
        """Does what the inbox asks for, waiting for it where there is nothing else to do; False: the end."""
        idle = not self._waiting and not self._running
        while True:
            try:
                order = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if order is None:
                return False
            job, wanted = order
            if wanted:
                self._waiting.append(job)
            else:
                self._drop(job)
            idle = not self._waiting and not self._running

    def _drop(self, job: Job) -> None:
        if job in self._waiting:
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

    def _left_over(self) -> list[Job]:
        jobs = []
        while not self._inbox.empty():
            order = self._inbox.get()
            if order is not None and order[1]:
                jobs.append(order[0])
        return jobs
