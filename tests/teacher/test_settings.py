"""Keys, addresses, prices and numbers of a teacher: what is refused by name, and never shown."""

import threading

import pytest
from scripted_teacher import error, scripted_teacher

from alpaca_jax.errors import UserError
from alpaca_jax.teacher.bill import Bill
from alpaca_jax.teacher.client import Client, key
from alpaca_jax.teacher.config import Prices, TeacherConfig
from alpaca_jax.teacher.protocol import Request

FREE = Prices(prompt=0.0, completion=0.0, source="test")
PAID = Prices(prompt=1.0, completion=2.0, source="test")
SECRET = "sk-very-secret-0123456789"
CHAT = Request(endpoint="chat", prompt="Hello", max_tokens=16, temperature=1.0, top_p=1.0, seed=5)


class Entry:
    """An entry of a log that nobody reads."""

    def __getattr__(self, name):
        return lambda *arguments: None


@pytest.mark.parametrize("value", ["sk-one\nsk-two-123", "sk-ключ-12345", "sk-1\x00234567", "sk-“quoted”"])
@pytest.mark.parametrize("name", ["TEST_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"])
def test_a_value_that_no_header_can_hold_is_named_and_not_shown(monkeypatch, name, value):
    monkeypatch.setenv("TEST_KEY", SECRET)
    if "\x00" in value:
        value = value.replace("\x00", "\x07")
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"environment variable {name} contains") as raised:
        key(TeacherConfig(model="m", key_env="TEST_KEY"))
    assert "sk-" not in str(raised.value)


def test_a_line_break_at_the_end_of_a_key_is_none_of_it(monkeypatch):
    monkeypatch.setenv("TEST_KEY", SECRET + "\r\n")
    assert key(TeacherConfig(model="m", key_env="TEST_KEY")) == SECRET


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/v1", r"it begins with ftp://"),
        ("file:///etc/passwd", "it begins with file://"),
        ("host:8000/v1", "give http:// or https://"),
        ("127.0.0.1:8000", "give http:// or https://"),
        ("localhost", "give http:// or https://"),
        ("http://", "give http:// or https://"),
        ("http://host:99999/v1", "give http:// or https://"),
        ("http://[::1/v1", "give http:// or https://"),
        ("http://host/v1\n", "a line break"),
        ("http://ho st/v1", "a space"),
        (f"http://host/v1?key={SECRET}", "contains a query"),
        (f"http://host/v1#{SECRET}", "contains a query"),
        (f"http://host/v1?api-version=2024-06-01&key={SECRET}", "contains a query"),
    ],
)
def test_an_address_that_is_none(url, said):
    with pytest.raises(ValueError, match=said) as raised:
        TeacherConfig(model="m", base_url=url)
    assert "base_url" in str(raised.value) and SECRET not in str(raised.value)


def test_the_version_of_an_interface_may_be_in_the_address():
    assert TeacherConfig(model="m", base_url="https://host/v1?api-version=2024-06-01").base_url.endswith("01")


def test_a_query_in_the_environment_is_sent_and_never_shown(monkeypatch):
    with scripted_teacher(lambda number, body: error(404, f"no {SECRET}")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.base_url}?key={SECRET}")
        monkeypatch.setenv("TEST_KEY", "sk-another-0123456789")
        config = TeacherConfig(model="m", key_env="TEST_KEY", free=True)
        teacher = Client(config, None, "m", Bill(FREE), lambda line: None)
        with pytest.raises(UserError, match="answered 404") as raised:
            teacher.ask(CHAT, threading.Event(), Entry())
        assert server.paths == [f"/v1/chat/completions?key={SECRET}"]
    assert SECRET not in str(raised.value) + repr(teacher)
    monkeypatch.setenv("OPENAI_BASE_URL", f"ftp://host/{SECRET}")
    with pytest.raises(UserError, match="environment variable OPENAI_BASE_URL is not the address") as raised:
        Client(config, None, "m", Bill(FREE), lambda line: None)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("key", ["prompt", "completion", "cached_prompt"])
@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_a_price_is_a_number(key, price):
    with pytest.raises(ValueError, match=key):
        Prices(**{"prompt": 1.0, "completion": 1.0, "source": "test", key: price})


@pytest.mark.parametrize(
    ("key", "value"), [("timeout", float("nan")), ("timeout", float("inf")), ("timeout", 0.0), ("concurrency", 0), ("max_retries", -1)]
)
def test_the_numbers_of_a_teacher_have_ranges(key, value):
    with pytest.raises(ValueError, match=key):
        TeacherConfig(model="m", **{key: value})


def test_free_and_a_price_contradict_each_other():
    with pytest.raises(ValueError, match="free and prices"):
        TeacherConfig(model="m", free=True, prices=PAID)


def test_a_proxy_that_is_none_is_the_users(monkeypatch):
    monkeypatch.setenv("TEST_KEY", SECRET)
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://host:1")
    config = TeacherConfig(base_url="https://host.example/v1", model="m", key_env="TEST_KEY")
    with pytest.raises(UserError, match=r"can't be made: .*HTTP_PROXY"):
        Client(config, config.base_url, "m", Bill(FREE), lambda line: None)


def test_a_missing_key_names_its_variable(monkeypatch):
    monkeypatch.delenv("TEST_KEY", raising=False)
    with pytest.raises(UserError, match="TEST_KEY is not set"):
        key(TeacherConfig(model="m", key_env="TEST_KEY"))
    with pytest.raises(UserError, match="hosted teacher needs a key"):
        key(TeacherConfig(model="m"))
    assert key(TeacherConfig(model="m", base_url="http://127.0.0.1:1/v1")) is None


def test_a_key_in_the_wrong_place_is_not_repeated():
    for wrong in ({"key_env": SECRET}, {"base_url": f"https://user:{SECRET}@host/v1"}):
        with pytest.raises(ValueError, match=r"NAME|name or password") as raised:
            TeacherConfig(model="m", **wrong)
        assert SECRET not in str(raised.value)
