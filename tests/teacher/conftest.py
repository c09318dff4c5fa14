import pytest
from teacher_client import FREE, SECRET

from alpaca_jax.teacher.bill import Bill
from alpaca_jax.teacher.client import Client
from alpaca_jax.teacher.config import TeacherConfig


@pytest.fixture
def client(monkeypatch):
    """Makes a client of a server's address, with a key in the environment and quick retries; `client.said` collects its notices."""
    monkeypatch.setenv("TEST_KEY", SECRET)

    def make(base_url, bill=None, retries=3, timeout=5.0, **teacher):
        config = TeacherConfig(base_url=base_url, model="m", key_env="TEST_KEY", timeout=timeout, max_retries=retries, **teacher)
        make.said = []
        return Client(config, base_url, "m", bill or Bill(FREE), make.said.append, first_wait=0.01)

    return make
