"""Prefetching: the batches in order from any start, with and without TensorFlow; what fails in a thread; leaving early."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numbered import equal, make, numbers

from alpaca_jax.data import prefetch
from alpaca_jax.data.config import BatchConfig
from alpaca_jax.data.example import Examples
from alpaca_jax.data.pipeline import make_batches
from alpaca_jax.errors import UserError

LENGTH = 256


@pytest.fixture(params=["tensorflow", "threads"])
def made_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "threads":
        monkeypatch.setitem(sys.modules, "tensorflow", None)  # an import of it fails as where it isn't installed
    return request.param


@pytest.fixture
def some() -> Examples:
    return make(np.random.default_rng(0).geometric(0.02, 50).clip(2, LENGTH).tolist())


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 15), count=st.integers(0, 8), packing=st.sampled_from(["packed", "none"]), part=st.booleans())
def test_the_stream_gives_the_batches_from_any_start(
    made_by: str, some: Examples, start: int, count: int, packing: str, part: bool
) -> None:
    batches = make_batches(some, BatchConfig(examples=8, sequence_length=LENGTH, packing=packing), seed=0, epochs=4)
    rows = slice(1, batches.rows) if part else None
    streamed = list(batches.stream(start, start + count, rows))
    assert len(streamed) == count
    assert all(equal(batch, batches.batch(index, rows)) for index, batch in enumerate(streamed, start=start))


def test_shapes_may_change_from_step_to_step(made_by: str, some: Examples) -> None:
    batches = make_batches(some, BatchConfig(examples=1, sequence_length=LENGTH, packing="none"), seed=0)
    shapes = [batch["tokens"].shape for batch in batches.stream(0, 50)]
    assert {rows for rows, _ in shapes} == {1}
    assert {length for _, length in shapes} == {64, 128, 256}


def test_an_exception_in_a_thread_reaches_the_caller_as_itself(made_by: str, some: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = make_batches(some, BatchConfig(examples=8, sequence_length=LENGTH), seed=0)
    whole = batches.batch

    def broken(index: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        if index >= 3:
            raise UserError(f"batch {index} can't be read")
        return whole(index, rows)

    monkeypatch.setattr(batches, "batch", broken)
    stream = batches.stream(0, 6)
    assert [numbers(next(stream)) for _ in range(3)] == [numbers(whole(index)) for index in range(3)]
    with pytest.raises(UserError, match="batch 3 can't be read"):
        next(stream)


def test_only_a_few_batches_are_made_ahead(made_by: str, some: Examples) -> None:
    batches = make_batches(some, BatchConfig(examples=8, sequence_length=LENGTH), seed=0)
    asked: list[int] = []

    def make(index: int) -> dict[str, np.ndarray]:
        asked.append(index)
        return batches.batch(index % 6)

    stream = prefetch.ahead(make, 0, 200, {name: array.dtype for name, array in batches.batch(0).items()})
    for _ in range(20):
        next(stream)
        time.sleep(0.01)  # the threads have time to run too far
    assert 20 <= len(asked) <= 20 + prefetch.AHEAD + prefetch.THREADS + 1


def test_a_missing_part_of_tensorflow_is_not_taken_for_its_absence(some: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_install(name: str, *args: object) -> object:
        if name == "tensorflow":
            raise ModuleNotFoundError("No module named 'flatbuffers'", name="flatbuffers")
        return imported(name, *args)

    imported = __import__
    monkeypatch.setattr("builtins.__import__", broken_install)
    with pytest.raises(ModuleNotFoundError, match="flatbuffers"):
        next(make_batches(some, BatchConfig(examples=8, sequence_length=LENGTH), seed=0).stream(0, 1))


@pytest.mark.parametrize("blocked", ["", "import sys; sys.modules['tensorflow'] = None"])
def test_a_stream_left_early_ends_the_process_cleanly_and_says_nothing(blocked: str) -> None:
    script = f"""
{blocked}
import numpy as np
from alpaca_jax.data import prefetch
from alpaca_jax.data.config import BatchConfig
from alpaca_jax.data.example import Example, Examples
from alpaca_jax.data.pipeline import make_batches
examples = Examples.of(Example.answering(np.arange(9, dtype=np.int32), 1) for _ in range(64))
for index, batch in enumerate(make_batches(examples, BatchConfig(examples=2, sequence_length=64), 0, epochs=9).stream(0, 200)):
    if index == 3:
        break
print("left")
"""
    own = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], env=own, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")


def test_packing_and_plans_need_no_tensorflow() -> None:
    script = (
        "import sys; sys.modules |= dict.fromkeys(['tensorflow', 'tensorflow_datasets', 'hydra', 'omegaconf', 'pydantic', 'jax']);"
        "import alpaca_jax.data.pipeline, alpaca_jax.data.plan, alpaca_jax.data.pack, alpaca_jax.data.mixture"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)
