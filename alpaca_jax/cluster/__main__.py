"""`python -m alpaca_jax.cluster`: called by launch/*.sh, and by the backends where a job's supervisor has to run."""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from alpaca_jax import documents
from alpaca_jax.cluster import record
from alpaca_jax.cluster.gke import backend as gke
from alpaca_jax.cluster.gke import manifest as gke_manifest
from alpaca_jax.cluster.gke import rules as gke_rules
from alpaca_jax.cluster.gke.backend import Gke
from alpaca_jax.cluster.gke.watch import watch
from alpaca_jax.cluster.job import Job
from alpaca_jax.cluster.local import Local
from alpaca_jax.cluster.processes import LocalRanks
from alpaca_jax.cluster.slurm.backend import Slurm, supervise_in_allocation
from alpaca_jax.cluster.slurm.step import allocation
from alpaca_jax.cluster.supervise import say, supervise
from alpaca_jax.cluster.tpu import backend as tpu_pod
from alpaca_jax.cluster.tpu import slices as tpu_slices
from alpaca_jax.cluster.tpu.backend import TpuPod, supervise_pod
from alpaca_jax.errors import UserError

DEFAULT_VERB = "train"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: the job's own, or 2 for the user's mistake."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except UserError as error:
        print(f"alpaca-jax: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alpaca_jax.cluster", description=__doc__)
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    local = actions.add_parser("local", help="run N processes on this machine, in the foreground")
    local.add_argument("processes", type=int, metavar="N")
    _common(local)
    local.set_defaults(run=_local)

    slurm = actions.add_parser("slurm", help="check a job, then queue it on Slurm")
    slurm.add_argument("--nodes", type=int, default=1)
    slurm.add_argument("--processes-per-node", type=int, default=1)
    slurm.add_argument("--minutes", type=int, help="the time limit")
    slurm.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="partition=..., account=..., and so on")
    _common(slurm)
    slurm.set_defaults(run=_slurm)

    here = actions.add_parser("allocation", help="run in the current Slurm allocation (launch/slurm.sbatch)")
    _common(here)
    here.set_defaults(run=_allocation)

    pod = actions.add_parser("tpu_pod", help="run on TPU VMs, in the foreground")
    pod.add_argument("--detach", action="store_true", help="return once the job is started")
    pod.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help=_listed(tpu_pod.OPTIONS))
    _common(pod)
    pod.set_defaults(run=_tpu_pod)

    kubernetes = actions.add_parser("gke", help="run as a JobSet on GKE, with the logs in the foreground")
    kubernetes.add_argument("--nodes", type=int, help="number of GPU nodes; that of TPU hosts follows from the topology")
    kubernetes.add_argument("--detach", action="store_true", help="return once the JobSet is created")
    kubernetes.add_argument("--print", action="store_true", help="print the manifest, create nothing")
    kubernetes.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help=_listed(gke_manifest.OPTIONS))
    _common(kubernetes)
    kubernetes.set_defaults(run=_gke)

    checked = actions.add_parser("check-jobset", help="check a JobSet in a YAML file (such as an edited launch/gke_jobset.yaml)")
    checked.add_argument("file", type=Path)
    checked.set_defaults(run=_check_jobset)

    inside = actions.add_parser("supervise", help="run the job that FOLDER/job.json describes (called by the backends)")
    inside.add_argument("folder", type=Path)
    inside.set_defaults(run=_supervise)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", help="the job's name (default: the last part of dir)")
    parser.add_argument("--folder", type=Path, help="where job.json and logs/ go (default: dir)")
    parser.add_argument("--restarts", type=int, default=3, help="at most this many in a row without a newer checkpoint (default 3)")
    parser.add_argument("--secret", action="append", default=[], metavar="NAME", help="a variable that must be set here")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="[VERB] key=value ...", help="dir=... is required; the default verb is train"
    )


def _local(arguments: argparse.Namespace) -> int:
    return Local().run(_job(arguments, processes_per_node=arguments.processes))


def _slurm(arguments: argparse.Namespace) -> None:
    options = dict(_pair(option) for option in arguments.option)
    shape = {"nodes": arguments.nodes, "processes_per_node": arguments.processes_per_node, "time_limit": arguments.minutes}
    job = _job(arguments, options=options, **shape)
    Slurm().submit(job)
    status = Slurm().state(job.folder)
    print(f"{job.name}: {status.state.value}, Slurm job {status.id}; logs in {job.folder / 'logs'}")


def _allocation(arguments: argparse.Namespace) -> int:
    job = _job(arguments, **allocation())
    return Slurm().run_here(job)


def _tpu_pod(arguments: argparse.Namespace) -> int:
    options = dict(_pair(option) for option in arguments.option)
    job = _job(arguments, options=options, nodes=tpu_slices.nodes(options))
    if not arguments.detach:
        return TpuPod().run(job)
    TpuPod().submit(job)
    print(f"{job.name}: {TpuPod().state(job.folder).state.value}; logs in {job.folder / 'logs'}")
    return 0


def _gke(arguments: argparse.Namespace) -> int:
    options = dict(_pair(option) for option in arguments.option)
    job = _job(arguments, options=options, nodes=gke_manifest.nodes(options) or arguments.nodes or 1)
    if arguments.print:
        manifest = gke_manifest.manifest(job)
        gke_rules.check(manifest)
        print(yaml.safe_dump(manifest, sort_keys=False), end="")
        return 0
    if not arguments.detach:
        return Gke().run(job)
    Gke().submit(job)
    print(f"{job.name}: {Gke().state(job.folder).state.value}; logs in {job.folder / 'logs'}")
    return 0


def _check_jobset(arguments: argparse.Namespace) -> None:
    manifest = documents.yaml_value(documents.read(arguments.file), str(arguments.file))
    try:
        gke_rules.check(manifest)
    except UserError as error:
        raise UserError(f"{arguments.file}: {error}") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{arguments.file}: not the YAML of a JobSet ({error!r})") from error
    print(f"{arguments.file}: no problem found")


def _supervise(arguments: argparse.Namespace) -> int:
    backend = record.read(arguments.folder).backend
    if backend == "slurm":
        return supervise_in_allocation(arguments.folder)
    if backend == tpu_pod.NAME:
        return supervise_pod(arguments.folder)
    if backend == gke.NAME:
        return watch(arguments.folder, say)
    return supervise(arguments.folder, LocalRanks())


def _job(arguments: argparse.Namespace, **rest: Any) -> Job:
    words = [word for word in arguments.command if word != "--"]
    if not words or "=" in words[0]:
        words = [DEFAULT_VERB, *words]
    run = next((word.removeprefix("dir=") for word in words if word.startswith("dir=")), None)
    if not run:
        raise UserError("dir= is missing: the run's folder, which all its processes share; give dir=runs/NAME")
    folder = arguments.folder or Path(run)
    if arguments.folder is None and "://" in run:
        raise UserError(f"dir={run}: the logs need a disk; give --folder DIR for them, before the verb")
    name = arguments.name or re.sub(r"[^A-Za-z0-9._-]+", "-", folder.absolute().name).strip("-._") or DEFAULT_VERB
    launched = {"name": name, "restarts": arguments.restarts, "secrets": tuple(arguments.secret)}
    return Job(folder=folder, run=run if arguments.folder else None, command=("alpaca-jax", *words), **launched, **rest)


def _listed(options: Mapping[str, str]) -> str:
    return "; ".join(f"{option}: {meaning}" for option, meaning in options.items())


def _pair(option: str) -> tuple[str, str]:
    key, equals, value = option.partition("=")
    if not equals:
        raise UserError(f"--option {option}: give KEY=VALUE, such as --option partition=gpu")
    return key, value


if __name__ == "__main__":
    sys.exit(main())
