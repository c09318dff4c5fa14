import errno
import logging
import os
import sys
import threading

import pytest

from alpaca_jax import fulldisk

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(autouse=True)
def hooks(monkeypatch):
    """What arrives at the hooks and the log that were there before."""
    told: list = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: told.append(error))
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))
    logger = logging.getLogger(fulldisk.LIBRARIES)
    monkeypatch.setattr(logger, "filters", [])
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logger.addHandler(handler)
    yield told
    logger.removeHandler(handler)


def raised(error):
    def work():
        raise error

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_a_librarys_words_on_a_full_disk_are_left_out(hooks):
    with fulldisk.told_once():
        raised(FULL)
        raised(ValueError(f"RESOURCE_EXHAUSTED: Error writing x [{os.strerror(errno.ENOSPC)}]"))
        logging.getLogger("absl").error("run() raised an exception: %s", FULL)
        try:
            raise FULL
        except OSError:
            logging.getLogger("absl").exception("it failed")
    sys.excepthook(RuntimeError, RuntimeError("Event loop is closed"), None)  # a thread that is still ending
    assert hooks == []


def test_any_other_words_arrive(hooks):
    error = ValueError("another")
    with fulldisk.told_once():
        raised(error)
        sys.excepthook(ValueError, error, None)
        logging.getLogger("absl").error("something else")
    assert hooks == [error, error, "something else"]
    sys.excepthook(RuntimeError, closed := RuntimeError("Event loop is closed"), None)
    assert hooks[-1] is closed
