"""TensorBoard's event file, by TensorFlow's own record writer: tensorboardX imports torch wherever it is installed, 2 s of every start."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alpaca_jax import tensorflow


class EventFile:
    """A new file of scalars in `folder`; TensorBoard hides what earlier files there say of `purge_step` and later steps.

    On a machine without TensorFlow nothing is written.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        tf = tensorflow.load()
        self._protos: Any = tf and tf.compat.v1
        if self._protos is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = tf.io.TFRecordWriter(str(folder / name))
        self._append(file_version="brain.Event:2")
        if purge_step is not None:
            self._append(step=purge_step, session_log=self._protos.SessionLog(status=self._protos.SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends the scalars of one step."""
        if self._protos is not None:
            scalars = [self._protos.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            self._append(step=step, summary=self._protos.Summary(value=scalars))

    def close(self) -> None:
        """Closes the file."""
        if self._protos is not None:
            self._file.close()

    def _append(self, **event: Any) -> None:
        self._file.write(self._protos.Event(wall_time=time.time(), **event).SerializeToString())
        self._file.flush()
