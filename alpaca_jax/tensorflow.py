"""TensorFlow, imported in one place: quietly, without Keras, and away from the accelerator, which is JAX's."""

import os
from typing import Any

# Read once, at the import. Without them TensorFlow logs how it would do arithmetic, of which there is none here, and imports all of Keras,
# which is more than a quarter of the time.
SETTINGS = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "TF_USE_LEGACY_KERAS": "1"}


def load() -> Any:
    """The module `tensorflow`, or None on a machine that has none."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import tensorflow
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        return None
    tensorflow.config.set_visible_devices([], "GPU")
    return tensorflow
