"""A machine with a GPU may lack TensorFlow, Hydra and pydantic: the step, packing and checkpoints do without."""

import subprocess
import sys

PROGRAM = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "hydra", "omegaconf", "pydantic"):
    sys.modules[name] = None
import alpaca_jax.checkpoint, alpaca_jax.data.pack, alpaca_jax.trainer.step, alpaca_jax.trainer.state
"""


def test_the_step_imports_without_tensorflow_hydra_and_pydantic():
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
