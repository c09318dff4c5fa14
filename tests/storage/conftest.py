"""An object store on loopback: an emulator of Google's, started for the test session."""

import itertools
import os
import socket

import pytest

NUMBERS = itertools.count()


def _tell_generations(server, objects):
    """Makes the emulator send the generation of an object, as Google's store does and TensorStore expects when it reads again."""
    whole = objects.download

    def download(request, response, storage, *args, **kwargs):
        whole(request, response, storage, *args, **kwargs)
        found = storage.objects.get(request.params["bucket_name"], {}).get(request.params["object_id"])
        if found is not None:
            response["x-goog-generation"] = found["generation"]

    objects.download = download
    for _, methods in server.HANDLERS:
        for method, handler in methods.items():
            methods[method] = download if handler is whole else handler


@pytest.fixture(scope="session")
def emulator():
    """The address of an emulator with the bucket `bkt`; child processes find it through the environment."""
    pytest.importorskip("gcsfs")
    server = pytest.importorskip("gcp_storage_emulator.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _tell_generations(server, pytest.importorskip("gcp_storage_emulator.handlers.objects"))
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
    """The address of a fresh folder in the bucket."""
    return f"gs://bkt/{os.getpid()}/{next(NUMBERS)}"
