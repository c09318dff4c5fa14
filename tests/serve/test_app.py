"""The endpoint as the official `openai` client sees it, compared with the batch called directly."""

import concurrent.futures
import json
import queue
import re
import threading
import time
from http.client import HTTPConnection

import jax
import jax.numpy as jnp
import numpy as np
import openai
import pytest
from decoding import batch_of

from alpaca_jax.decode.generation import TOP, Options
from alpaca_jax.decode.scoring import Scoring
from alpaca_jax.model import llama
from alpaca_jax.serve.app import PAGE
from alpaca_jax.serve.scheduler import Job, Scheduler

NAME = "tiny"


def direct(batch, tokenizer, prompt, count, **sampling):
    ids = prompt if isinstance(prompt, list) else tokenizer.encode(prompt, special=True)
    return batch.generate([ids], count, stop_ids=[tokenizer.eos_id], **sampling)[0]


def test_models(client):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_completion_is_what_the_batch_says(client, batch, tokenizer):
    answer = client.completions.create(model=NAME, prompt="Once upon a time", max_tokens=24, temperature=0)
    expected = direct(batch, tokenizer, "Once upon a time", 24)
    assert answer.choices[0].text == tokenizer.decode(expected.ids)
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        16,
        len(expected.ids),
        16 + len(expected.ids),
    )
    assert answer.model == NAME
    assert answer.object == "text_completion"


def test_prompts_of_every_kind(client, batch, tokenizer):
    texts = ["One", "Two<|im_end|>"]
    ids = [tokenizer.encode(text, special=True) for text in texts]
    answers = [client.completions.create(model=NAME, prompt=prompt, max_tokens=6, temperature=0) for prompt in (texts, ids)]
    expected = [tokenizer.decode(direct(batch, tokenizer, one, 6).ids) for one in ids]
    for answer in answers:
        assert [choice.text for choice in answer.choices] == expected
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert answer.usage.prompt_tokens == sum(map(len, ids)) == 3 + 4
    assert client.completions.create(model=NAME, prompt=ids[0], max_tokens=6, temperature=0).choices[0].text == expected[0]


def test_seeds_and_choices(client, batch, tokenizer):

    def ask(**more):
        return client.completions.create(model=NAME, prompt="abc", max_tokens=12, temperature=1.0, top_p=0.9, **more)

    first, again, free = ask(seed=7, n=3), ask(seed=7, n=3), ask(n=2)
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in again.choices]
    assert len(set(texts)) == 3
    assert free.choices[0].text != free.choices[1].text
    assert texts[1] == tokenizer.decode(direct(batch, tokenizer, "abc", 12, temperature=1.0, top_p=0.9, seed=8).ids)


def test_default_lengths(client):
    assert client.completions.create(model=NAME, prompt="abc").usage.completion_tokens <= 16
    chat = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "abc"}], temperature=1, seed=1)
    assert chat.choices[0].finish_reason == "stop" or chat.usage.total_tokens == 200


def test_chat_goes_through_the_template(client, batch, tokenizer):
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]},
    ]
    answer = client.chat.completions.create(model=NAME, messages=messages, max_completion_tokens=10, temperature=0)
    prompt = "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n"
    expected = direct(batch, tokenizer, prompt, 10)
    assert answer.choices[0].message.content == tokenizer.decode(expected.ids)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.prompt_tokens == len(tokenizer.encode(prompt, special=True))


def log_probabilities(architecture, params, ids):
    """What the training forward gives for the token after each of `ids`: [T, V]."""
    tokens = jnp.array([ids], jnp.int32)
    hidden = llama.forward(architecture, params, tokens, jnp.ones_like(tokens), jnp.arange(len(ids), dtype=jnp.int32)[None])
    return np.asarray(jax.nn.log_softmax(llama.logits(params, hidden)[0]))


def test_completion_logprobs(client, batch, tokenizer, architecture, params):
    answer = client.completions.create(model=NAME, prompt="Once", max_tokens=9, temperature=1.0, seed=4, logprobs=3)
    expected = direct(batch, tokenizer, "Once", 9, temperature=1.0, seed=4)
    logprobs = answer.choices[0].logprobs
    assert logprobs.token_logprobs == pytest.approx(expected.logprobs, abs=1e-5)
    assert logprobs.tokens == [tokenizer.decode([id], skip_special=False) for id in expected.ids]
    assert logprobs.text_offset[0] == 0
    assert logprobs.text_offset == sorted(logprobs.text_offset)
    prompt = tokenizer.encode("Once", special=True)
    rows = log_probabilities(architecture, params, prompt + expected.ids)[len(prompt) - 1 : -1]
    for id, row, top in zip(expected.ids, rows, logprobs.top_logprobs, strict=True):
        likely = {}
        for each in (*np.argsort(-row)[:3].tolist(), id):  # of the bytes that have no text of their own the likeliest counts
            likely.setdefault(tokenizer.decode([each], skip_special=False), float(row[each]))
        assert top == pytest.approx(likely, abs=1e-4)


def test_chat_logprobs(client):

    def ask(**more):
        return client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "Hi"}], max_tokens=5, **more)

    content = ask(temperature=0, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert len(content) == 5
    for token in content:
        assert [likely.logprob for likely in token.top_logprobs] == sorted((likely.logprob for likely in token.top_logprobs), reverse=True)
        assert token.token == token.top_logprobs[0].token  # greedy
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob, abs=1e-5)
        assert token.bytes is None or bytes(token.bytes).decode() == token.token
    assert ask(logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    assert ask().choices[0].logprobs is None


@pytest.mark.parametrize("n", [1, 2])
def test_a_streamed_completion_is_the_whole_one(client, n):

    def ask(**more):
        return client.completions.create(model=NAME, prompt="abc", max_tokens=20, seed=5, n=n, logprobs=0, **more)

    whole = ask()
    texts, offsets, reasons = [""] * n, [[] for _ in range(n)], [None] * n
    *chunks, last = ask(stream=True, stream_options={"include_usage": True})
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            offsets[choice.index] += choice.logprobs.text_offset
            reasons[choice.index] = reasons[choice.index] or choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert offsets == [choice.logprobs.text_offset for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert last.usage == whole.usage
    assert last.choices == []


def test_a_streamed_chat_is_the_whole_one(client):

    def ask(**more):
        return client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": "Hi"}], max_tokens=20, temperature=1.0, seed=2, **more
        )

    whole = ask().choices[0]
    first, *rest = ask(stream=True)
    assert first.choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in rest) == whole.message.content
    assert rest[-1].choices[0].finish_reason == whole.finish_reason


def test_stop_strings(client, batch, tokenizer):
    text = tokenizer.decode(direct(batch, tokenizer, "Once", 30).ids)
    stop = text[10:13]
    cut = text[: text.find(stop)]

    def ask(**more):
        return client.completions.create(model=NAME, prompt="Once", max_tokens=30, temperature=0, **more)

    answer = ask(stop=["not there at all", stop], logprobs=0)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (cut, "stop")
    assert all(offset < len(cut) for offset in answer.choices[0].logprobs.text_offset)
    assert "".join(chunk.choices[0].text for chunk in ask(stop=stop, stream=True)) == cut


def test_a_special_token_stops(client, batch, tokenizer):
    greedy = direct(batch, tokenizer, "Once", 30).ids
    assert tokenizer.encode("<|endoftext|>", special=True)[0] not in greedy
    answer = client.completions.create(model=NAME, prompt="Once", max_tokens=30, temperature=0, stop="<|endoftext|>")
    assert answer.choices[0].text == tokenizer.decode(greedy)

    def sampled(seed):
        return direct(batch, tokenizer, "a", 60, temperature=9.0, seed=seed).ids

    seed, ids = next((seed, ids) for seed in range(99) if 0 in (ids := sampled(seed))[1:])
    settings = {"prompt": "a", "max_tokens": 60, "temperature": 9.0, "seed": seed, "logprobs": 0}
    stopped = client.completions.create(model=NAME, stop="<|endoftext|>", **settings).choices[0]
    assert (stopped.text, stopped.finish_reason) == (tokenizer.decode(ids[: ids.index(0)]), "stop")
    assert "<|endoftext|>" in client.completions.create(model=NAME, **settings).choices[0].logprobs.tokens


def test_many_at_once_are_each_their_own(client, batch, tokenizer):
    prompts = [f"Prompt number {number}" + "." * number for number in range(12)]

    def ask(prompt):
        return client.completions.create(model=NAME, prompt=prompt, max_tokens=10, temperature=0).choices[0].text

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, prompts))
    assert answers == [
        tokenizer.decode(one.ids) for one in batch.generate([tokenizer.encode(prompt) for prompt in prompts], 10, stop_ids=[2])
    ]


USER = [{"role": "user", "content": "Hi"}]
CALLS = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}


@pytest.mark.parametrize(
    ("call", "more", "status", "param", "code"),
    [
        ("completions", {"model": "gpt-4", "prompt": "a"}, 404, "model", "model_not_found"),
        ("completions", {"prompt": "a" * 200}, 400, "prompt", "context_length_exceeded"),
        ("completions", {"prompt": ""}, 400, "prompt", None),
        ("completions", {"prompt": []}, 400, "prompt", None),
        ("completions", {"prompt": ["a"] * 9, "n": 128}, 400, "n", None),
        ("completions", {"prompt": [1, 5000]}, 400, "prompt", None),
        ("completions", {"prompt": "a", "max_tokens": "many"}, 400, "max_tokens", None),
        ("completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens", None),
        ("completions", {"prompt": "a", "temperature": -1}, 400, "temperature", None),
        ("completions", {"prompt": "a", "top_p": 1.5}, 400, "top_p", None),
        ("completions", {"prompt": "a", "logprobs": TOP + 1}, 400, "logprobs", None),
        ("completions", {"prompt": "a", "echo": True, "max_tokens": -1}, 400, "max_tokens", None),
        ("completions", {"prompt": "a" * 201, "echo": True, "max_tokens": 0}, 400, "prompt", "context_length_exceeded"),
        ("completions", {"prompt": "a", "echo": "yes"}, 400, "echo", None),
        ("completions", {"prompt": "a", "best_of": 3}, 400, "best_of", None),
        ("completions", {"prompt": "a", "presence_penalty": 1}, 400, "presence_penalty", None),
        ("completions", {"prompt": "a", "extra_body": {"beam_width": 3}}, 400, "beam_width", None),
        ("chat.completions", {"messages": []}, 400, "messages", None),
        ("chat.completions", {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages", None),
        ("chat.completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages", None),
        ("chat.completions", {"messages": [*USER, CALLS]}, 400, "messages", None),
        ("chat.completions", {"messages": USER, "top_logprobs": 2}, 400, "top_logprobs", None),
        ("chat.completions", {"messages": USER, "n": 0}, 400, "n", None),
        ("chat.completions", {"messages": USER, "tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools", None),
    ],
)  # fmt: skip
def test_bad_requests(client, call, more, status, param, code):
    target = client.chat.completions if call == "chat.completions" else client.completions
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as caught:
            target.create(**{"model": NAME, "stream": stream} | more)
        assert caught.value.status_code == status
        assert (caught.value.param, caught.value.code, caught.value.type) == (param, code, "invalid_request_error")


def http(url, method="GET", content=None, timeout=30.0, **headers):
    """The status, headers and body of one exchange."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = HTTPConnection(host, timeout=timeout)
    try:
        connection.request(method, f"/{path}", content, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


JSON = {"Content-Type": "application/json"}


def test_what_is_no_request(server):
    url = f"{server.url}/v1/completions"
    message = lambda answer: json.loads(answer[2])["error"]["message"]  # noqa: E731
    assert message(http(url, "POST", "{", **JSON)).startswith("the body can't be read: not JSON")
    deep = '{"model": "tiny", "prompt": ' + "[" * 100_000 + "]" * 100_000 + "}"
    for body, problem in (
        (deep, "nested more than 100 deep"),
        (b'{"a": "\xff"}', "not UTF-8"),
        ('{"a": "\\ud800"}', "surrogate"),
        ("9" * 5000, "thousands"),
    ):
        answer = http(url, "POST", body, **JSON)
        assert answer[0] == 400 and problem in message(answer)
    assert http(url, "POST", '{"model": "tiny", "prompt": "a", "temperature": NaN}', **JSON)[0] == 400
    assert http(url, "POST", "x" * (33 * 2**20), **JSON)[0] == 413
    assert http(url, "POST", "[1]", **JSON)[0] == 400
    assert http(url, "POST", '{"model": "tiny"}', **{"Content-Type": "text/plain"})[0] == 415
    assert message(http(url)) == "GET /v1/completions: Method Not Allowed"
    assert http(f"{server.url}/v2")[0] == 404
    assert http(f"{server.url}/health", Host="evil.example")[0] == 400
    assert json.loads(http(f"{server.url}/health")[2]) == {"status": "ok"}


def test_the_page_needs_nothing_from_elsewhere(server):
    status, headers, page = http(server.url)
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert page == PAGE
    assert not re.search(r"https?://|src=|@import", PAGE)


def slow_down(batch):
    """Every step takes a twentieth of a second longer."""
    step = batch.step

    def slow():
        time.sleep(0.05)
        return step()

    batch.step = slow
    return batch


def until(condition, seconds):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come to pass"
        time.sleep(0.01)


@pytest.fixture
def slow(architecture, params):
    return slow_down(batch_of(architecture, params, slots=4, max_length=200))


LONG = {"model": NAME, "prompt": "abc", "max_tokens": 190, "n": 4, "temperature": 1.0, "seed": 3}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slots(running, slow, stream):
    with running(slow) as server:
        connection = HTTPConnection(server.url.removeprefix("http://"))
        connection.request("POST", "/v1/completions", json.dumps(LONG | {"stream": stream}), JSON)
        until(lambda: slow.free == 0, 20)
        connection.close()
        until(lambda: slow.free == 4, 5)
        assert slow.free == 4


def test_a_server_that_ends_says_so(running, slow):
    with running(slow) as server:
        connection = HTTPConnection(server.url.removeprefix("http://"))
        connection.request("POST", "/v1/completions", json.dumps(LONG | {"stream": True}), JSON)
        response = connection.getresponse()
        response.readline()
        server.end()
        assert "the server is shutting down" in response.read().decode()
        connection.close()


def test_an_error_in_the_batch_ends_the_server_with_it(running, architecture, params):
    batch = batch_of(architecture, params, slots=4, max_length=200)

    def fail():
        if batch.free < 4:
            raise MemoryError("no room for the cache")
        return []

    batch.step = fail
    scheduler = Scheduler(batch, Scoring(batch._program, batch._weights))
    reasons = queue.Queue()
    scheduler.submit(Job([1], Options(5), lambda tokens, reason: reasons.put(reason)))
    ended = threading.Event()
    scheduler.start(ended.set)
    assert ended.wait(10)
    assert reasons.get() == "abort"
    assert isinstance(scheduler.failure, MemoryError)
    scheduler.submit(Job([1], Options(5), lambda tokens, reason: reasons.put(reason)))
    assert reasons.get(timeout=5) == "abort"
