"""Rates and means are what a hand calculation gives."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_jax.metrics import Throughput, WeightedMean


def test_throughput_counts_real_tokens_and_knows_no_mfu_without_a_peak():
    now = iter([0.0, 2.0, 2.0, 3.0, 3.0])
    throughput = Throughput(peak_flops=100.0, tokens=1000, clock=lambda: next(now))
    throughput.add(tokens=30, slots=40, flops=50.0, flops_full=60.0)
    throughput.add(tokens=10, slots=40, flops=50.0, flops_full=60.0)
    rates = {"tokens_per_second": 20.0, "slots_per_second": 40.0, "utilisation": 0.5, "mfu": 0.5, "mfu_full_attention": 0.6}
    assert throughput.take() == rates
    throughput.peak_flops = None
    throughput.add(tokens=0, slots=0, flops=50.0, flops_full=60.0)
    nothing = {"tokens_per_second": 0.0, "slots_per_second": 0.0, "utilisation": None, "mfu": None, "mfu_full_attention": None}
    assert throughput.take() == nothing
    assert throughput.tokens == 1040


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 500)), min_size=1))
def test_weighted_mean_weighs_each_token_once(batches):
    mean = WeightedMean()
    for loss, tokens in batches:
        mean.add(loss * tokens, tokens)
    assert mean.value == pytest.approx(np.average([loss for loss, _ in batches], weights=[tokens for _, tokens in batches]))


def test_weighted_mean_of_nothing_is_nan():
    assert math.isnan(WeightedMean().value)
