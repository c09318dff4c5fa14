"""A full disk is told once, in a line: the libraries that run into it, from threads of their own, print hundreds more."""

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from types import TracebackType

from alpaca_jax.errors import disk_is_full

LIBRARIES = "absl"  # the logger of Orbax and TensorFlow


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """A context in which libraries print no traceback of a full disk; the error itself still arrives where it is raised.

    Where there was one, that stays so after the context: threads of a library are still ending.
    """
    logger, before, thread_before = logging.getLogger(LIBRARIES), sys.excepthook, threading.excepthook
    seen = threading.Event()

    def is_known(error: BaseException | None) -> bool:
        if error is not None and disk_is_full(error):
            seen.set()
            return True
        # TensorStore's threads come back to an event loop that the first error has closed.
        return isinstance(error, RuntimeError) and "Event loop is closed" in str(error)

    def keeps(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not (is_known(error) or is_known(OSError(record.getMessage())))

    def in_library(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not is_known(error):
            before(kind, error, trace)

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if not is_known(args.exc_value):
            thread_before(args)

    logger.addFilter(keeps)
    sys.excepthook, threading.excepthook = in_library, in_thread
    try:
        yield
    finally:
        if not seen.is_set():
            logger.removeFilter(keeps)
            sys.excepthook, threading.excepthook = before, thread_before
