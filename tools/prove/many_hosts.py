"""Do jobs on several hosts survive failures? A real Slurm whose nodes are network namespaces, and a tiny training job.

The small recipe trains on two nodes as in one process. In a sweep of 4 jobs of 2 ranks, one job fails on its rank 1. Ranks are killed,
stopped, cut off, preempted, cancelled, and lose their supervisor; each time the proof measures how long the job takes to end, and the
resumed run must have the losses of an undisturbed one, to 1e-6. Exits 1 if a claim fails.

Needs root and Debian's packages: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge iproute2
Run from the root: python -m tools.prove.many_hosts
"""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run by its path
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))  # for slurm_cluster

import network_hosts
import numpy as np
import slurm_cluster
from rich.table import Table

from tools.benchmark import turns
from tools.prove import many_hosts_cases, many_hosts_recipe, many_hosts_sweep, tiny
from tools.prove.many_hosts_cases import Outcome
from tools.prove.many_hosts_job import HEARTBEAT, STEPS, Failed, Ground, Trial, claim

NODES = 3  # two for the job, and a spare for when one of them is lost
RECORDS = 64
SHOWN = 30  # lines of the user's output
OTHERS = ("recipe", "sweep")


def main() -> None:
    """Runs the cases, prints the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=[*OTHERS, *many_hosts_cases.CASES], default=[*OTHERS, *many_hosts_cases.CASES])
    arguments = parser.parse_args()
    if reason := slurm_cluster.missing() or network_hosts.missing():
        raise SystemExit(reason)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, ground(Path(name)) as site:
        results, failures = run(site, arguments.cases)
    disturbed = [outcome for outcome in results.values() if isinstance(outcome, Outcome)]
    show(results)
    for failure in failures:
        turns.console.print(f"FAILED: {failure}", style="red", markup=False)
    more = {name: facts if isinstance(facts, dict) else dataclasses.asdict(facts) for name, facts in results.items()}
    for facts in more.values():
        facts.pop("said", None)
    slowest = max((outcome.seconds for outcome in disturbed), default=0.0)
    packages = ("jax", "jaxlib", "flax", "orbax-checkpoint")
    line = {"cases": more, "failed": failures, "minutes": round((time.monotonic() - began) / 60, 1)}
    print(turns.result("many_hosts", slowest, None, "s", packages, **line), flush=True)
    sys.exit(1 if failures else 0)


@contextlib.contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """The cluster and the files of the tiny runs; all are removed at the end."""
    for name in ("slurm", "shared"):
        (folder / name).mkdir()
    with slurm_cluster.cluster(folder / "slurm", nodes=NODES, namespaces=True) as cluster:
        os.environ |= {"SLURM_CONF": str(cluster.conf), "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore", "TF_CPP_MIN_LOG_LEVEL": "3"}
        os.environ["PATH"] += ":/usr/sbin:/sbin"
        tiny.write_tokenizer(folder / "shared" / "tokenizer")
        lines = "".join(json.dumps(tiny.record(number)) + "\n" for number in range(RECORDS))
        (folder / "shared" / "records.jsonl").write_text(lines)
        yield Ground(folder / "shared", cluster)


def run(site: Ground, names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The outcome of each case, and the failures."""
    results: dict[str, Any] = {}
    failures: list[str] = []
    straight = None if set(names) <= {"recipe"} else undisturbed(site)
    for name in names:
        turns.console.print(f"{name} ...")
        try:
            if name == "recipe":
                results[name] = many_hosts_recipe.equal(site)
            elif name == "sweep":
                assert straight is not None
                results[name] = many_hosts_sweep.one_fails(site, straight)
            else:
                results[name] = many_hosts_cases.CASES[name](site, straight)
                turns.console.print(f"  {results[name].seconds:.1f} s to the end, exit codes {results[name].codes}")
        except Failed as error:
            failures.append(f"{name}: {error}")
            turns.console.print(f"  FAILED: {error}", markup=False)
    return results, failures


def undisturbed(site: Ground) -> np.ndarray:
    """The losses of the undisturbed run on two nodes."""
    began = time.monotonic()
    trial = Trial(site, "straight")
    trial.launch()
    trial.ended()
    losses = trial.losses()
    claim(len(losses) == STEPS, f"{len(losses)} steps of {STEPS}")
    turns.console.print(
        f"the undisturbed run: {STEPS} steps on 2 nodes, loss {losses[0]:.4f} to {losses[-1]:.4f}, {time.monotonic() - began:.0f} s"
    )
    return losses


def show(results: Mapping[str, Any]) -> None:
    """Prints the table and, below it, the user's output."""
    others = {name: facts for name, facts in results.items() if isinstance(facts, dict)}
    outcomes = [each for each in results.values() if isinstance(each, Outcome)]
    for name, facts in others.items():
        turns.console.print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in facts.items() if key != "said"), markup=False)
    table = Table(title=f"A job of 2 nodes, heartbeat {HEARTBEAT} s, disturbed after step {many_hosts_cases.MOMENT}", title_justify="left")
    for column in (
        "what happened",
        "seconds to the end",
        "allowed",
        "exit codes",
        "started again",
        "from step",
        "in the end",
        "losses differ by",
    ):
        table.add_column(column, justify="left" if column in ("what happened", "exit codes", "started again", "in the end") else "right")
    for each in outcomes:
        codes = ", ".join("none" if code is None else str(code) for code in each.codes)
        apart = "0" if each.difference == 0 else f"{each.difference:.1e}"
        table.add_row(
            each.case, f"{each.seconds:.1f}", f"{each.limit:.0f}", codes, each.restarted, str(each.went_on_from), each.state, apart
        )
    turns.console.print(table)
    saw = {f"the {name}": facts["said"] for name, facts in others.items() if "said" in facts} | {each.case: each.said for each in outcomes}
    for what, said in saw.items():
        turns.console.print(f"\nwhat the person saw of {what}:", style="bold")
        for line in said[:SHOWN]:
            turns.console.print(f"  {line}", markup=False)
        if len(said) > SHOWN:
            turns.console.print(f"  ({len(said) - SHOWN} more lines)", markup=False)


if __name__ == "__main__":
    main()
