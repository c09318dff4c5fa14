"""The verb as a process: it says when it is ready, ends when it is told to, and refuses what can't work before it loads anything."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest
from decoding import batch_of

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.model import in_memory
from alpaca_jax.listening import listen
from alpaca_jax.serve.config import Config
from alpaca_jax.serve.run import _name


@pytest.fixture(scope="session")
def folder(tmp_path_factory, architecture, params, tokenizer):
    """The tiny model as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("tiny-run") / "hf"
    huggingface_export.export(folder, in_memory(architecture, tokenizer, params))
    return folder


@contextlib.contextmanager
def serving(folder, tmp_path, *more):
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "alpaca_jax", "serve", f"model.source='{folder}'", "port=0", f"ready='{ready}'", *more]
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "XDG_CACHE_HOME": str(tmp_path)}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=tmp_path)
    try:
        limit = time.monotonic() + 120
        while not ready.exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < limit, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield process, json.loads(ready.read_text())
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_answers_once_it_is_ready_and_ends_when_told_to(folder, tmp_path, number, code):
    with serving(folder, tmp_path, "slots=2", "max_length=64") as (process, ready):
        assert ready["pid"] == process.pid
        assert ready["model"] == folder.parent.name
        with openai.OpenAI(base_url=ready["base_url"], api_key="none", max_retries=0) as client:
            stream = client.completions.create(model=ready["model"], prompt="abc", max_tokens=50, temperature=1, stream=True)
            next(iter(stream))
            process.send_signal(number)
            assert process.wait(20) == code
        assert not (tmp_path / "ready.json").exists()
        assert "Traceback" not in (tmp_path / "log").read_text()


def test_it_ends_with_its_parent(folder, tmp_path):
    with subprocess.Popen(["sleep", "600"]) as parent, serving(folder, tmp_path, f"parent={parent.pid}") as (process, _):
        assert process.poll() is None
        parent.kill()  # it stays as a zombie until the end of the `with`
        assert process.wait(20) == 0
        assert "is gone" in (tmp_path / "log").read_text()


def test_a_port_in_use_is_refused_before_the_model_is_read(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"port={port}: something else listens on 127.0.0.1:{port}; give another port"):
            listen("127.0.0.1", port)
        # The source doesn't exist: it is not even looked for.
        command = [sys.executable, "-m", "alpaca_jax", "serve", "model.source=/not/there", f"port={port}"]
        root = Path(__file__).resolve().parents[2]
        ended = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)}, check=False
        )
    assert ended.returncode == 2
    assert "something else listens" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_addresses_that_are_not_ours():
    with pytest.raises(UserError, match=r"host=203\.0\.113\.7: can't listen there"):
        listen("203.0.113.7", 0)


@pytest.mark.parametrize(("key", "value"), [("port", 70000), ("slots", 0), ("max_length", 1)])
def test_settings_that_make_no_sense(key, value):
    with pytest.raises(UserError, match=f"{key}={value}: give"):
        parse(Config, {"model": {"source": "x"}, key: value})


def test_names(tmp_path):
    for path in ("run/hf", "run/train", "model"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "weights.Q4.gguf").touch()
    assert [_name(str(tmp_path / path)) for path in ("run/hf", "run/train", "model", "weights.Q4.gguf")] == [
        "run",
        "run",
        "model",
        "weights.Q4",
    ]
    assert [_name(name) for name in ("smollm2-135m-instruct", "org/name")] == ["smollm2-135m-instruct", "org/name"]


def test_the_real_model_answers(smollm2):
    opened = pretrained.open(str(smollm2))
    batch = batch_of(opened.architecture, pretrained.load_params(opened), slots=2, max_length=256)
    chat = opened.tokenizer.apply_chat([{"role": "user", "content": "What is the capital of France?"}])
    (answer,) = batch.generate([chat], 20, stop_ids=opened.eos_ids)
    assert opened.tokenizer.decode(answer.ids) == "The capital of France is Paris."
    assert answer.finish_reason == "stop"
