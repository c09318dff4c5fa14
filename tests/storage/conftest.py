"""An object store on loopback: the emulator of Google's, started here and gone with the session."""

import itertools
import os
import socket

import pytest

NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def emulator():
    """The address of an emulator with the bucket `bkt`; processes started later find it through the environment."""
    pytest.importorskip("gcsfs")
    server = pytest.importorskip("gcp_storage_emulator.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = server.create_server("127.0.0.1", port, in_memory=True, default_bucket="bkt")
    started.start()
    address = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "x")
        yield address
    started.stop()


@pytest.fixture
def gs(emulator):
    """The address of a folder of its own in the bucket."""
    return f"gs://bkt/{os.getpid()}/{next(NUMBERS)}"
