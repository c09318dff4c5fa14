from collections.abc import Iterator

import jax
import pytest
from training import make_files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(autouse=True, scope="module")
def one_device() -> Iterator[None]:
    """Uses one device, like the child processes of these tests."""
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: first)
        patch.setattr(jax, "device_count", lambda *_: 1)
        yield
