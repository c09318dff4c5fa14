"""Log-probabilities of the prompt's own tokens over HTTP, as evaluation harnesses ask for them, against the training's forward pass."""

import concurrent.futures
import dataclasses
import json
import queue
import socket
import time
import urllib.error
import urllib.request
from http.client import HTTPConnection

import bytewise
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding import batch_of

from alpaca_jax.decode.generation import Generation, Options
from alpaca_jax.listening import listen
from alpaca_jax.model import llama
from alpaca_jax.serve.echo import Echo
from alpaca_jax.serve.scheduler import Job, Scheduler
from alpaca_jax.serve.tokenization import TokenizeRequest

NAME = "tiny"
HARNESS = {"model": NAME, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "extra_body": {"echo": True}}
TEXT = "Once upon a time, ünd"


@pytest.fixture(scope="module")
def forward(architecture, params):
    @jax.jit
    def run(tokens):
        hidden = llama.forward(architecture, params, tokens, jnp.ones_like(tokens), jnp.arange(tokens.shape[1])[None])
        return jax.nn.log_softmax(llama.logits(params, hidden)[0])

    def rows(ids):
        tokens = np.zeros((1, 64), np.int32)
        tokens[0, : len(ids)] = ids
        return np.asarray(run(tokens))[: len(ids)]

    return rows


@pytest.fixture(scope="module")
def prompts(architecture):
    draw = np.random.default_rng(0)
    context = draw.integers(3, architecture.vocab_size, 30).tolist()
    return [[*context, *draw.integers(3, architecture.vocab_size, more).tolist()] for more in (1, 9, 3)] + [context[:5], [7]]


def test_a_harness_reads_what_the_forward_pass_gives(client, forward, prompts):
    answer = client.completions.create(prompt=prompts, **HARNESS)
    for ids, choice in zip(prompts, answer.choices, strict=True):
        rows, logprobs = forward(ids), choice.logprobs
        assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == len(ids) + 1
        assert logprobs.token_logprobs[0] is logprobs.top_logprobs[0] is None
        found = logprobs.token_logprobs[1:]
        np.testing.assert_allclose(found[:-1], rows[np.arange(len(ids) - 1), ids[1:]], atol=1e-4)
        assert found[-1] == pytest.approx(rows[-1].max(), abs=1e-4)
        likeliest = [max(top.values()) for top in logprobs.top_logprobs[1:]]
        np.testing.assert_allclose(likeliest, rows.max(axis=1), atol=1e-4)
        greedy = [one == most for one, most in zip(found, likeliest, strict=True)]
        assert greedy == [*(rows.argmax(axis=1)[:-1] == ids[1:]).tolist(), True]
    assert answer.usage.prompt_tokens == sum(map(len, prompts))


def test_batches_and_concurrency_change_nothing(client, batch, tokenizer, prompts):
    def ask(prompt):
        return [choice.logprobs.token_logprobs[1:] for choice in client.completions.create(prompt=prompt, **HARNESS).choices]

    def generate():
        answer = client.completions.create(model=NAME, prompt=TEXT, max_tokens=24, temperature=1.0, seed=7)
        return answer.choices[0].text

    expected = batch.generate([tokenizer.encode(TEXT)], 24, temperature=1.0, seed=7, stop_ids=[tokenizer.eos_id])[0]
    together = ask(prompts)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        text = pool.submit(generate)
        alone = [one for each in pool.map(ask, [[prompt] for prompt in prompts] * 2) for one in each]
        assert text.result() == tokenizer.decode(expected.ids)
    for one, other in zip(together * 2, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_text_comes_back_with_the_place_of_each_token(client, tokenizer, forward):
    text = f"{TEXT}<|im_end|>\n"
    answer = client.completions.create(model=NAME, prompt=text, max_tokens=0, logprobs=0, extra_body={"echo": True})
    (choice,) = answer.choices
    ids = tokenizer.encode(text, special=True)
    assert (choice.text, choice.finish_reason) == (text, "length")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), 0)
    offsets = choice.logprobs.text_offset
    placed = zip(offsets, choice.logprobs.tokens, strict=True)
    assert all(text[offset:].startswith(token) for offset, token in placed if token != "\ufffd")
    place = text.index("ü")
    assert offsets[place - 1 : place + 3] == [place - 1, place, place, place + 1]  # two bytes of one character
    np.testing.assert_allclose(choice.logprobs.token_logprobs[1:], forward(ids)[np.arange(len(ids) - 1), ids[1:]], atol=1e-4)
    assert [list(top.values()) for top in choice.logprobs.top_logprobs[1:]] == [[each] for each in choice.logprobs.token_logprobs[1:]]
    same = client.completions.create(model=NAME, prompt=ids, max_tokens=0, extra_body={"echo": True}).choices[0]
    assert (same.text, same.logprobs) == (text, None)


@pytest.mark.parametrize("logprobs", [None, 2])
def test_an_answer_goes_on_where_the_prompt_ends(client, logprobs):
    settings = {"model": NAME, "prompt": ["Once", TEXT], "max_tokens": 5, "temperature": 1.0, "seed": 3, "n": 2, "logprobs": logprobs}
    plain = client.completions.create(**settings)
    whole = client.completions.create(**settings, extra_body={"echo": True})
    for index, (one, echoed) in enumerate(zip(plain.choices, whole.choices, strict=True)):
        prompt = settings["prompt"][index // 2]
        assert (echoed.text, echoed.finish_reason) == (prompt + one.text, one.finish_reason)
        if logprobs is not None:
            count = len(one.logprobs.tokens)
            assert echoed.logprobs.token_logprobs[-count:] == one.logprobs.token_logprobs
            assert echoed.logprobs.text_offset[-count:] == [len(prompt) + offset for offset in one.logprobs.text_offset]
            assert len(echoed.logprobs.tokens) == len(prompt.encode()) + count
    assert whole.usage == plain.usage
    texts, tokens = [""] * 4, [0] * 4
    for chunk in client.completions.create(**settings, stream=True, extra_body={"echo": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            tokens[choice.index] += len(choice.logprobs.tokens) if choice.logprobs else 0
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [len(choice.logprobs.tokens) if choice.logprobs else 0 for choice in whole.choices]


def test_a_model_that_gives_no_numbers_gives_an_error(running, architecture, params):
    damaged = {**params, "norm": {"scale": params["norm"]["scale"] * np.float32("nan")}}
    body = HARNESS | {"prompt": [[5, 6, 7]], "echo": True}
    del body["extra_body"]
    with running(batch_of(architecture, damaged, slots=4, max_length=200)) as server:
        status, answer = exchange(f"{server.url}/v1/completions", body)
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert answer["error"]["message"].startswith("the model's log-probabilities are not numbers")


def test_scoring_gets_no_more_of_the_time_than_decoding(monkeypatch):
    now, done = [0.0], []
    monkeypatch.setattr("alpaca_jax.serve.scheduler.time.monotonic", lambda: now[0])

    class Work:
        free, busy, steps = 1, True, 0

        def __init__(self, name, seconds):
            self.name, self.seconds = name, seconds

        def admit(self, prompt, options):
            return Generation(prompt, options)

        def step(self):
            now[0] += self.seconds
            done.append(self.name)
            if len(done) == 60:
                scheduler.stop()
            return []

    scheduler = Scheduler(Work("decode", 1.0), Work("score", 5.0))
    scheduler.submit(Job([1], Options(5), lambda tokens, reason: None))
    scheduler.start()
    scheduler.join(10)
    assert scheduler.failure is None
    assert "".join(name[0] for name in done[:19]) == "ds" + "ddddds" * 2 + "ddddd"


def test_a_client_that_leaves_is_scored_no_further(running, architecture, params, prompts):
    with running(batch_of(architecture, params, slots=4, max_length=200)) as server:
        scoring = server._scheduler._scoring
        steps, step = queue.SimpleQueue(), scoring.step

        def slow():
            steps.put(None)
            time.sleep(0.1)
            return step()

        scoring.step = slow
        connection = HTTPConnection(server.url.removeprefix("http://"))
        body = {"model": NAME, "prompt": prompts[:1] * 500, "max_tokens": 0, "logprobs": 0, "echo": True}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        steps.get(timeout=20)
        connection.close()
        limit = time.monotonic() + 20
        while server._scheduler._scored or scoring.busy:
            assert time.monotonic() < limit, "nobody reads it, and it goes on"
            time.sleep(0.01)
    assert steps.qsize() < 10  # all of them would take 500 / 32 at least


def test_tokenize_and_back(server, tokenizer):
    post = lambda path, **body: exchange(f"{server.url}{path}", body)  # noqa: E731
    ids = tokenizer.encode(f"{TEXT}<|im_end|>", special=True)
    for place in ("", "/v1"):
        answer = post(f"{place}/tokenize", prompt=f"{TEXT}<|im_end|>", add_special_tokens=False)
        assert answer == (200, {"count": len(ids), "max_model_len": 200, "tokens": ids, "token_strs": None})
        assert post(f"{place}/detokenize", tokens=ids) == (200, {"prompt": f"{TEXT}<|im_end|>"})
    status, info = exchange(f"{server.url}/tokenizer_info")
    assert (status, info["eos_token"], info["bos_token"]) == (200, "<|im_end|>", "<|im_start|>")
    assert (info["chat_template"], info["model_max_length"]) == (tokenizer.chat_template, 200)
    chat = post("/tokenize", messages=[{"role": "user", "content": "Hi"}], model=NAME, return_token_strs=True)[1]
    assert chat["tokens"] == tokenizer.apply_chat([{"role": "user", "content": "Hi"}])
    assert chat["token_strs"][0] == "<|im_start|>"
    for path, body, status, param in (
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "Hi"}]}, 400, "prompt"),
        ("/tokenize", {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages"),
        ("/tokenize", {"messages": [{"role": "user", "content": "x"}], "add_special_tokens": True}, 400, "add_special_tokens"),
        ("/tokenize", {"prompt": "a", "truncate": 3}, 400, "truncate"),
        ("/tokenize", {"prompt": "a", "model": "gpt-4"}, 404, "model"),
        ("/detokenize", {"tokens": [5000]}, 400, "tokens"),
        ("/detokenize", {"tokens": "abc"}, 400, "tokens"),
    ):
        found, answer = post(path, **body)
        assert (found, answer["error"]["param"]) == (status, param), body


def test_answers_are_sent_at_once():
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP  # asyncio looks at nothing else before it turns Nagle's algorithm off


def test_bos_goes_before_a_text_once():
    own = bytewise.tokenizer(["<s>", "</s>"], bos="<s>", eos="</s>")
    first = dataclasses.replace(own, adds_bos=True)
    assert TokenizeRequest(prompt="ab").answer(first, 9)["tokens"] == [first.bos_id, *own.encode("ab")]
    assert TokenizeRequest(prompt="ab", add_special_tokens=False).answer(first, 9)["tokens"] == own.encode("ab")
    echo = Echo.of(first, "ab", [first.bos_id, *own.encode("ab")])
    assert (echo.text, echo.offsets) == ("ab", [0, 0, 1])
    echo = Echo.of(first, None, [first.bos_id, *own.encode("ab")])
    assert (echo.text, echo.offsets) == ("<s>ab", [0, 3, 4])


def exchange(url, body=None):
    """The status and the JSON of one exchange."""
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
