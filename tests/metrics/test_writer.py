"""The metrics file survives a killed writer and a rewind."""

import json

import numpy as np
import pytest

from alpaca_jax import metrics
from alpaca_jax.errors import UserError
from alpaca_jax.metrics import MetricsWriter


def test_lines_are_json_even_for_nan_and_arrays(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"loss": np.float32(2.5), "mfu": None, "bad": float("nan")})
        writer.write(np.int64(2), {"loss": np.array(2.0), "worse": float("inf"), "list": [np.int32(1)]})
    first, second = metrics.read(tmp_path / "metrics.jsonl")
    assert first == {"step": 1, "loss": 2.5, "mfu": None, "bad": None}
    assert second == {"step": 2, "loss": 2.0, "worse": None, "list": [1]}


def test_torn_last_line_is_cut_before_the_next_is_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert [line["step"] for line in metrics.read(path)] == [1]
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(2, {"loss": 1.5})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_rewind_drops_the_steps_after_the_one_training_goes_on_from(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": 1.0 / step})
        assert writer.rewind(3) == 2
        assert writer.rewind(3) == 0
        writer.write(4, {"loss": 9.0})
    assert [(line["step"], line["loss"]) for line in metrics.read(writer.path)][-2:] == [(3, 1 / 3), (4, 9.0)]
    assert len(list((tmp_path / "events").iterdir())) >= 1


def test_read_of_an_absent_file_is_empty(tmp_path):
    assert metrics.read(tmp_path / "metrics.jsonl") == []


class Collected:
    """A sink that keeps what it gets."""

    def __init__(self):
        self.lines, self.closed = [], False

    def write(self, step, values):
        self.lines.append((step, values))

    def close(self):
        self.closed = True


def test_a_sink_gets_the_finite_numbers_again_after_a_rewind_and_is_closed_with_the_writer(tmp_path):
    sink = Collected()
    with MetricsWriter(tmp_path, tensorboard=False, sinks=[sink]) as writer:
        for step in (1, 2):
            writer.write(step, {"loss": np.float32(0.5), "mfu": None, "bad": float("nan"), "skipped": True, "list": [1]})
        writer.rewind(1)
        assert not sink.closed
        writer.write(2, {"loss": 0.25})
    assert sink.lines == [(1, {"loss": 0.5}), (2, {"loss": 0.5}), (2, {"loss": 0.25})]
    assert sink.closed


@pytest.mark.parametrize("line", ["[" * 100_000, "{torn", "3", "\x00", '{"loss": "\\ud800"}'])
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(UserError, match="metrics.jsonl, line 2"):
        metrics.read(tmp_path / "metrics.jsonl")
