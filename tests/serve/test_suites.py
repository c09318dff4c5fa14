"""Suites on one model in memory and over HTTP: the same log-likelihoods, those of a direct forward pass, and the same results."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.decode.scoring import Scoring
from alpaca_jax.model import llama
from alpaca_jax.scores.suites import harness, results, tasks
from alpaca_jax.scores.suites.backend import Ask
from alpaca_jax.scores.suites.config import SuiteConfig
from alpaca_jax.scores.suites.endpoint import HttpBackend
from alpaca_jax.scores.suites.inprocess import InProcess
from alpaca_jax.scores.suites.model import HarnessModel

LONGEST = 200  # the server's
SUMS = """
task: sums
dataset_path: local
output_type: multiple_choice
test_split: test
fewshot_split: dev
doc_to_text: "{{a}} + {{b}} ="
doc_to_choice: "{{choices}}"
doc_to_target: "{{right}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
WORDS = """
task: words
dataset_path: local
output_type: generate_until
test_split: test
doc_to_text: "{{a}} and {{b}} and"
doc_to_target: "{{right}}"
generation_kwargs: {until: ["\\n", "e"], max_gen_toks: 6}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 2.0}
"""


def told(done):
    pass


@contextlib.contextmanager
def untold(what, total):
    yield told


@pytest.fixture(scope="module")
def inside(batch, tokenizer):
    """The model in memory."""
    return InProcess(Scoring(batch._program, batch._weights, LONGEST), batch, tokenizer, [tokenizer.eos_id])


@pytest.fixture(scope="module")
def outside(server):
    """The same model behind our server."""
    return HttpBackend(f"{server.url}/v1", LONGEST, slots=4)


@pytest.fixture(scope="module")
def direct(architecture, params):
    """The log-probabilities of the forward pass that trains, a row a token."""

    @jax.jit
    def run(tokens):
        hidden = llama.forward(architecture, params, tokens, jnp.ones_like(tokens), jnp.arange(tokens.shape[1])[None])
        return jax.nn.log_softmax(llama.logits(params, hidden)[0])

    return lambda ids: np.asarray(run(np.array([ids + [0] * (64 - len(ids))], np.int32)))[: len(ids)]


@pytest.fixture(scope="module")
def rows(architecture):
    draw = np.random.default_rng(0)
    context = draw.integers(3, architecture.vocab_size, 30).tolist()
    return [(context + draw.integers(3, architecture.vocab_size, more).tolist(), 30) for more in (1, 4, 9, 2, 3)] + [(context[:6], 2)]


def test_log_likelihoods_are_those_of_a_forward_pass(inside, outside, direct, rows):
    expected = [direct(ids)[np.arange(start - 1, len(ids) - 1), ids[start:]].sum() for ids, start in rows]
    greedy = [[*ids[:-1], int(direct(ids)[len(ids) - 2].argmax())] for ids, _ in rows]
    for backend in (inside, outside):
        found = backend.likelihoods(rows, told)
        np.testing.assert_allclose([each.logprob for each in found], expected, atol=1e-4)
        alone = [backend.likelihoods([row], told)[0].logprob for row in rows]  # what else is asked at the same time changes nothing
        np.testing.assert_allclose([each.logprob for each in found], alone, atol=1e-5)
        assert all(each.greedy for each in backend.likelihoods([(ids, len(ids) - 1) for ids in greedy], told))
        assert not any(
            each.greedy for each in backend.likelihoods([([*ids[:-1], 3], len(ids) - 1) for ids in greedy if ids[-1] != 3], told)
        )


def test_an_answer_ends_before_its_stop_string(inside, outside):
    asks = [Ask([50 + number, 60, 70, 80], 12) for number in range(6)]
    whole = inside.generate(asks, told)
    stop = whole[1][3:5]
    cut = inside.generate([ask._replace(stops=("none of it", stop)) for ask in asks], told)
    assert cut == [text.split(stop)[0] for text in whole] and cut[1] != whole[1]
    assert inside.generate([asks[3]], told) == [whole[3]]
    assert outside.generate(asks, told) == whole
    assert outside.generate([ask._replace(stops=("none of it", stop)) for ask in asks], told) == cut


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """Two tasks of one's own on local data."""
    for name, content in {"sums": SUMS, "words": WORDS}.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    for split, count in {"test": 5, "dev": 3}.items():
        lines = [{"a": n, "b": 2 * n, "choices": [str(3 * n + k) for k in range(3)], "right": n % 3} for n in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setenv("ALPACA_JAX_TRUST_TASKS", "1")
    return SuiteConfig(tasks=("sums", "words"), folder=str(tmp_path), data=str(tmp_path), num_fewshot=2, limit=4)


def test_a_task_of_the_harness_gives_the_same_both_ways(suite, inside, outside, tokenizer):
    found = []
    for backend in (inside, outside):
        model = HarnessModel(backend, tokenizer, untold)
        found.append(results.of(harness.evaluated(model, tasks.load("own", suite), suite), {}))
    assert found[0] == found[1]
    shown = [(row.task, row.version, row.shots, row.metric, row.questions) for row in found[0].rows]
    assert shown == [("sums", "1.0", 2, "acc", 4), ("words", "2.0", 2, "exact_match", 4)]
    assert len(found[0].values["sums", "acc", "none"]) == 4
