"""The proof of loss parity in small: packed rows, padded rows, and transformers + torch take the same three steps."""

import jax
import numpy as np
import pytest

from alpaca_jax.data.config import BatchConfig
from alpaca_jax.data.example import Example, Examples
from alpaca_jax.data.pipeline import make_batches
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.trainer.optimizer import OptimizerConfig

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and transformers

TINY = Architecture(vocab_size=61, hidden_size=16, intermediate_size=40, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4)
STEPS, STEP_EXAMPLES = 3, 8
CONFIG = OptimizerConfig(learning_rate=3e-2, warmup=0.4)


def examples():
    random = np.random.default_rng(0)
    sizes = random.integers(6, 32, 32)
    return Examples.of(Example.answering(random.integers(0, TINY.vocab_size, size).astype(np.int32), size // 3) for size in sizes)


def batches(packing):
    return make_batches(examples(), BatchConfig(examples=STEP_EXAMPLES, sequence_length=32, packing=packing), seed=0)


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda weight: 4.0 * weight, llama.init(TINY, jax.random.key(0)))


@pytest.fixture(scope="module")
def reference(params):
    """Losses and weights of transformers + torch."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tools.benchmark import theirs
    from tools.prove import parity

    torch.set_num_threads(1)  # nothing here is large enough for two
    model = theirs.llama(TINY, params)
    steps_of = [examples().take(batches("none").indices(step).tolist()) for step in range(STEPS)]
    losses = parity.their_losses(model, steps_of, CONFIG, STEPS)
    return losses, {name: weight.detach().numpy() for name, weight in model.state_dict().items()}


@pytest.mark.parametrize(("packing", "microbatches"), [("packed", 1), ("none", 4)])
def test_ours_takes_the_steps_of_torch(params, reference, packing, microbatches):
    from tools.benchmark import theirs
    from tools.prove import parity

    made = batches(packing)
    losses, after = parity.our_losses(TINY, params, (made.batch(step) for step in range(STEPS)), CONFIG, STEPS, microbatches)
    assert abs(losses[0] - losses[-1]) > 0.01  # the weights have moved
    np.testing.assert_allclose(losses, reference[0], rtol=1e-5)
    found = {name: weight.numpy() for name, weight in theirs.state_dict(TINY, after).items()}
    assert found.keys() == reference[1].keys()
    for name, weight in found.items():
        np.testing.assert_allclose(weight, reference[1][name], atol=1e-4, rtol=0, err_msg=name)
