"""A tiny random model behind a real server on a free port, driven with the official client."""

import contextlib
import threading

import bytewise
import jax
import openai
import pytest
from decoding import batch_of

from alpaca_jax.decode.scoring import Scoring
from alpaca_jax.listening import listen
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.serve.app import Service
from alpaca_jax.serve.models import Model
from alpaca_jax.serve.run import Server
from alpaca_jax.serve.scheduler import Scheduler

TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NAME = "tiny"


@pytest.fixture(scope="session")
def tokenizer():
    """A tokenizer with a token for each byte, and ChatML's special tokens."""
    return bytewise.tokenizer(SPECIALS, chat_template=TEMPLATE, bos="<|im_start|>", eos="<|im_end|>")


@pytest.fixture(scope="session")
def architecture(tokenizer):
    return Architecture(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        max_positions=256,
        tie_embeddings=False,
    )


@pytest.fixture(scope="session")
def params(architecture):
    return llama.init(architecture, jax.random.key(0))


@pytest.fixture(scope="session")
def batch(architecture, params):
    """A second batch with the same weights, for comparison."""
    return batch_of(architecture, params, slots=4, max_length=200)


@pytest.fixture(scope="session")
def running(tokenizer):
    """A context that serves a batch."""
    own = tokenizer

    @contextlib.contextmanager
    def run(batch, tokenizer=own, adapters=()):
        scheduler = Scheduler(batch, Scoring(batch._program, batch._weights, batch.max_length))
        size = batch._program.architecture.vocab_size
        models = [Model(NAME, tokenizer, frozenset({tokenizer.eos_id})), *(one.model(number) for number, one in enumerate(adapters, 1))]
        service = Service(models, size, scheduler)
        with listen("127.0.0.1", 0) as listener:
            server = Server(service, scheduler, "127.0.0.1", listener)
            thread = threading.Thread(target=server.run)
            thread.start()
            try:
                yield server
            finally:
                server.end()
                thread.join(30)
                assert not thread.is_alive()

    return run


@pytest.fixture(scope="session")
def server(running, architecture, params):
    with running(batch_of(architecture, params, slots=4, max_length=200)) as server:
        yield server


@pytest.fixture(scope="session")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client
