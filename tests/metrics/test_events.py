"""The event file as TensorBoard reads it: records of TensorFlow's own format."""

from alpaca_jax import tensorflow
from alpaca_jax.metrics.events import EventFile


def events(folder):
    """The events of each file, the older file first."""
    iterate = tensorflow.load().compat.v1.train.summary_iterator
    return [list(iterate(str(path))) for path in sorted(folder.iterdir())]


def test_scalars_and_where_an_earlier_file_ends(tmp_path):
    first = EventFile(tmp_path / "events")
    first.write(1, {"loss": 2.5, "tokens": 7})
    ((head, step),) = events(tmp_path / "events")  # before it is closed, too
    assert head.file_version == "brain.Event:2"
    assert step.step == 1 and {value.tag: value.simple_value for value in step.summary.value} == {"loss": 2.5, "tokens": 7.0}
    first.close()

    second = EventFile(tmp_path / "events", purge_step=1)
    second.write(1, {"loss": 3.5})
    second.close()
    _, (_, start, again) = events(tmp_path / "events")
    assert start.step == 1 and start.session_log.status == start.session_log.START
    assert again.summary.value[0].simple_value == 3.5


def test_a_machine_without_tensorflow_gets_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorflow, "load", lambda: None)
    file = EventFile(tmp_path / "events")
    file.write(1, {"loss": 2.5})
    file.close()
    assert not (tmp_path / "events").exists()
