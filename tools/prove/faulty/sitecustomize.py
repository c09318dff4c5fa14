"""A fault on one rank, for the proofs: Python imports this module in every process that has this folder in its PYTHONPATH.

PROVE_FAULT is JSON: {"rank", "step", "word", "unless"}. In the process of that rank whose command contains that word, the step raises,
unless that file exists.
"""

import importlib.util
import json
import os
import sys
from importlib.abc import MetaPathFinder

MODULE = "alpaca_jax.train.loop"


class Fault(MetaPathFinder):
    """Injects the fault into the loop when it is imported."""

    def __init__(self, step: int, unless: str) -> None:
        self.step, self.unless = step, unless

    def find_spec(self, name, path=None, target=None):
        """Finds the module as the other finders do, and patches the result."""
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def changed(module):
            execute(module)
            beat = module.beat

            def faulty(step):
                beat(step)
                if step == self.step and not os.path.exists(self.unless):
                    raise RuntimeError(f"the fault of step {step}")

            module.beat = faulty

        spec.loader.exec_module = changed
        return spec


fault = json.loads(os.environ.get("PROVE_FAULT", "null"))
if fault and os.environ.get("ALPACA_JAX_PROCESS") == str(fault["rank"]) and fault["word"] in sys.orig_argv:
    sys.meta_path.insert(0, Fault(fault["step"], fault["unless"]))
