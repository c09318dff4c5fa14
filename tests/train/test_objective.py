"""Another objective than SFT goes through the verb's own path, without a change to the step."""

import jax
import jax.numpy as jnp
import pytest
from training import config

from alpaca_jax import metrics
from alpaca_jax.model import llama
from alpaca_jax.train.run import run
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import Objective, Read, Terms, sft

COEFFICIENT = 0.01


def z_loss(forward: Forward) -> Objective:
    """SFT with a penalty on log Z of the softmax (Chowdhery et al. 2022, arXiv:2204.02311), which is reported as `z`."""
    plain = sft.objective(forward)

    def terms(trained, fixed, batch) -> Terms:
        total, weight, _ = plain.terms(trained, fixed, batch)
        params = forward.whole(trained, fixed, batch)
        logits_BTV = llama.logits(params, forward.hidden(params, batch), forward.architecture.vocab_size)
        z = (jax.nn.logsumexp(logits_BTV, axis=-1) ** 2 * batch["weights"]).sum()
        return Terms(total + COEFFICIENT * z, weight, {"z": (z, weight), "doubled": (2 * z, jnp.float32(2.0))})

    return Objective(terms, sft.READS, weight="answered", reports=("z", "doubled"))


def lines(folder):
    return [line for line in metrics.read(folder / "train" / "metrics.jsonl") if "loss" in line]


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("z")
    run(config(files, folder, steps=4), z_loss)
    return lines(folder)


def test_what_it_reports_is_written_beside_its_loss(files, tmp_path, trained):
    run(config(files, tmp_path, steps=1))
    [plain] = lines(tmp_path)
    assert [line["step"] for line in trained] == [1, 2, 3, 4]
    first = trained[0]
    assert first["loss"] == pytest.approx(plain["loss"] + COEFFICIENT * first["z"], rel=1e-6)
    assert first["answered"] == plain["targets"] and "targets" not in first
    assert first["doubled"] == pytest.approx(first["z"] * first["answered"], rel=1e-6)  # each sum has a weight of its own
    assert trained[-1]["z"] < first["z"]


def test_its_sums_are_divided_once_over_all_microbatches(files, tmp_path, trained):
    run(config(files, tmp_path, steps=4, microbatches=2, batch={"examples": 4, "sequence_length": 256, "rows": 4}), z_loss)
    for one, other in zip(lines(tmp_path), trained, strict=True):
        assert [one[name] for name in ("loss", "z")] == pytest.approx([other[name] for name in ("loss", "z")], rel=1e-5)


def test_a_batch_that_lacks_what_it_reads_is_named(files, tmp_path):
    wants_more = lambda forward: Objective(sft.objective(forward).terms, {**sft.READS, "advantages": Read("float32")})  # noqa: E731
    with pytest.raises(AssertionError, match=r"reads \['advantages'\]"):
        run(config(files, tmp_path, steps=1), wants_more)
