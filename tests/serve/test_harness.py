"""The real lm-evaluation-harness against the endpoint: its log-likelihoods are those of the model, whatever it asks for at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.decode import weights
from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.program import Program
from alpaca_jax.decode.scoring import Scoring
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.huggingface import export
from alpaca_jax.model import llama
from alpaca_jax.sharding import Layout

NAME = "tiny"
TOGETHER = [{}, {"batch_size": 4}, {"num_concurrent": 4}, {"num_concurrent": 2, "batch_size": 2}]
ASKED = [(f"The {name} is", end) for name in ("sun", "moün") for end in (" yellow", " not here at all", "!")] + [("", " what?")]


def harness(server, **more):
    completions = pytest.importorskip("lm_eval.models.openai_completions")
    return completions.LocalCompletionsAPI(base_url=f"{server.url}/v1/completions", model=NAME, max_retries=1, **more)


def asked(pairs, kind="loglikelihood"):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, pair, number) for number, pair in enumerate(pairs)]


def rows_of(tokenizer, pairs):
    """The ids of each pair, and where its continuation begins; the harness puts BOS where there is no context."""
    contexts = [tokenizer.encode(context) or [tokenizer.bos_id] for context, _ in pairs]
    return [([*ids, *tokenizer.encode(end, start=False)], len(ids)) for ids, (_, end) in zip(contexts, pairs, strict=True)]


@functools.partial(jax.jit, static_argnums=0)
def forward(architecture, params, tokens_BT):
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    hidden = llama.forward(architecture, params, tokens_BT, jnp.ones_like(tokens_BT), positions_BT)
    return jax.nn.log_softmax(llama.logits(params, hidden)[:, :, : architecture.vocab_size])


def direct(architecture, params, rows, size):
    """The log-probability of each token of each row but the first, and whether it is the likeliest, by the training's forward pass."""
    tokens_BT = np.zeros((len(rows), size), np.int32)
    for row, (ids, _) in enumerate(rows):
        tokens_BT[row, : len(ids)] = ids
    logprobs_BTV = np.asarray(forward(architecture, params, tokens_BT))
    given = [logprobs_BTV[row, np.arange(len(ids) - 1), ids[1:]] for row, (ids, _) in enumerate(rows)]
    likeliest = [logprobs_BTV[row].argmax(axis=1)[: len(ids) - 1] == ids[1:] for row, (ids, _) in enumerate(rows)]
    return given, likeliest


def test_log_likelihoods_over_http_are_those_of_the_forward_pass(server, tokenizer, architecture, params):
    rows = rows_of(tokenizer, ASKED)
    given, likeliest = direct(architecture, params, rows, 64)
    for together in TOGETHER:
        model = harness(server, max_length=200, **together)
        assert model.tokenizer_backend == "remote"
        found = model.loglikelihood(asked(ASKED), disable_tqdm=True)
        for (_, start), (logprob, greedy), one, best in zip(rows, found, given, likeliest, strict=True):
            assert logprob == pytest.approx(float(one[start - 1 :].sum()), abs=1e-4)
            assert greedy == best[start - 1 :].all()
    text = "Once upon a time"
    (rolling,) = model.loglikelihood_rolling(asked([(text,)], "loglikelihood_rolling"), disable_tqdm=True)
    ids = [tokenizer.bos_id, *tokenizer.encode(text)]
    assert rolling == pytest.approx(float(direct(architecture, params, [(ids, 1)], 64)[0][0].sum()), abs=1e-4)


@pytest.mark.prove
@pytest.mark.filterwarnings("ignore")  # of torch and transformers
def test_smollm2_scores_as_in_transformers(running, smollm2, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    opened = pretrained.open(str(smollm2))
    program = Program.on(opened.architecture, Layout.of_one_device(), "float32")
    own = weights.fused(opened.architecture, functools.partial(pretrained.read_weight, opened), program.dtype)
    pairs = [(f"The capital of {land} is", f" {city}") for land in ("France", "Italy") for city in ("Paris", "Rome", "Timbuktu")]
    pairs.append(("Once upon a time there was a king. " * 12 + "Once upon a time there was a", " king."))
    rows = rows_of(opened.tokenizer, pairs)
    scores = Scoring(program, own).score([(ids, 1) for ids, _ in rows])
    given, likeliest = direct(opened.architecture, pretrained.load_params(opened), rows, 160)
    export.export(tmp_path / "hf", opened)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    for (ids, _), score, one, best in zip(rows, scores, given, likeliest, strict=True):
        np.testing.assert_allclose(score.logprobs, one, atol=1e-4)
        assert score.greedy == best.tolist()
        with torch.inference_mode():
            expected = torch.log_softmax(theirs(torch.tensor([ids])).logits[0], -1).numpy()
        np.testing.assert_allclose(score.logprobs, expected[np.arange(len(ids) - 1), ids[1:]], atol=2e-3)
    with running(Batch(program, own, slots=4), opened.tokenizer) as server:
        for together in TOGETHER[::3]:
            found = harness(server, max_length=512, **together).loglikelihood(asked(pairs), disable_tqdm=True)
            for (_, start), score, (logprob, greedy) in zip(rows, scores, found, strict=True):
                assert logprob == pytest.approx(sum(score.logprobs[start - 1 :]), abs=1e-4)
                assert greedy == all(score.greedy[start - 1 :])
    assert [greedy for _, greedy in found][:6:4] == [True, True]  # Paris of France, Rome of Italy
