"""The small recipe, in one process and on two nodes: the same losses."""

import subprocess
import sys
import time
from typing import Any

from tools.benchmark import alpaca
from tools.prove.many_hosts_job import Ground, Trial, claim, difference


def equal(ground: Ground) -> dict[str, Any]:
    """Returns the seconds, the losses and their difference."""
    own = [
        "experiment=alpaca_packed_small",
        f"data.records={alpaca.folder() / 'alpaca_data.json'}",
        f"data.cache={ground.folder / 'alpaca'}",
    ]
    single, double = (Trial(ground, f"recipe-{count}", [*own, f"dir={ground.folder / f'recipe-{count}'}"]) for count in (1, 2))
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "alpaca_jax", "train", *single.words], capture_output=True, text=True)
    claim(done.returncode == 0, f"the run in one process ended with {done.returncode}: {done.stderr[-2000:]}")
    between = time.monotonic()
    double.launch()
    ended = double.ended()
    claim(ended.exit_code == 0, f"the run on two nodes ended with {ended.exit_code}")
    end = time.monotonic()
    claim(double.summary()["hardware"]["devices"] == 2, "the run on two nodes has not used two devices")
    one, two = single.losses(), double.losses()
    return {
        "steps": len(one),
        "losses": [round(float(loss), 6) for loss in two],
        "difference": f"{difference(two, one):.1e}",
        "seconds in one process": round(between - began),
        "seconds on two nodes": round(end - between),
    }
