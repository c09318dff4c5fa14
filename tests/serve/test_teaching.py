"""Our server as the teacher of a distillation: token ids there and back, against the training's forward pass."""

import bytewise
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.data.example import Example
from alpaca_jax.data.pack import collate
from alpaca_jax.errors import UserError
from alpaca_jax.model import llama
from alpaca_jax.train.distill.served import Served

COUNT = 5


def test_each_place_has_the_tokens_that_the_model_finds_most_probable_there(server, architecture, params, tokenizer):
    random = np.random.default_rng(0)
    examples = [Example.answering(random.integers(0, architecture.vocab_size, n).astype(np.int32), 2) for n in (7, 12, 4)]
    batch = collate(examples, 2, 24)
    served = Served(f"{server.url}/v1", tokenizer, COUNT)
    served.check()
    found = served.ask(batch, 0)
    hidden = jax.jit(lambda tokens, segments, positions: llama.forward(architecture, params, tokens, segments, positions))(
        *(jnp.asarray(batch[name]) for name in ("tokens", "segments", "positions"))
    )
    log_probs = np.asarray(jax.nn.log_softmax(llama.logits(params, hidden)))
    where = batch["weights"] > 0
    np.testing.assert_array_equal(found["best"][where], np.argsort(-log_probs, axis=-1)[where][:, :COUNT])
    np.testing.assert_allclose(found["log_probs"][where], -np.sort(-log_probs, axis=-1)[where][:, :COUNT], atol=1e-2)  # float16


def test_a_server_with_another_tokenizer_is_refused(server):
    other = bytewise.tokenizer(["<|im_start|>", "<|im_end|>", "<s>", "</s>"])
    with pytest.raises(UserError, match="has another tokenizer than the student"):
        Served(f"{server.url}/v1", other, COUNT).check()


def test_what_a_server_refuses_is_said(server, tokenizer):
    with pytest.raises(UserError, match="refuses"):
        Served(f"{server.url}/v1", tokenizer, 1000).check()
