"""A real Slurm on this machine: Debian's munged, slurmctld and several slurmd, run in a separate folder and ended by their process ids."""

import contextlib
import dataclasses
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import network_hosts
import psutil

PACKAGES = "slurmctld slurmd slurm-client munge"
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
KILL_WAIT = 5  # seconds from SIGTERM to SIGKILL of a cancelled job

CONF = """
ClusterName=tests
SlurmctldHost={controller}
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=10
KillWait={kill_wait}
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=1 GraceTime=20
PartitionName=small Nodes=ALL MaxTime=60 MaxNodes=1 State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=60 State=UP PriorityTier=9
"""


def missing() -> str | None:
    """Why Slurm can't run here, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"no Slurm here ({', '.join(absent)}): apt-get install --no-install-recommends {PACKAGES}"
    return None if os.geteuid() == 0 else "a Slurm of one's own needs root"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A running cluster with nodes n1, n2 ...; SLURM_CONF must name its `conf`."""

    conf: Path
    controller: subprocess.Popen
    nodes: dict[str, subprocess.Popen]  # the slurmd of each
    hosts: network_hosts.Hosts | None  # if each node is a network namespace


@contextlib.contextmanager
def cluster(folder: Path, nodes: int = 2, cpus: int = 4, namespaces: bool = False) -> Iterator[Cluster]:
    """A running cluster with its files in `folder`; at exit, ends all its processes. With `namespaces` each node has its own address."""
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(network_hosts.hosts(folder, nodes)) if namespaces else None
        environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
        names = [f"n{i + 1}" for i in range(nodes)]
        _configure(folder, names, cpus, hosts)
        daemons: list[subprocess.Popen] = []
        stack.callback(_end, daemons, environment)
        daemons.append(_munged(folder, environment))
        controller = _start(["slurmctld", "-D", "-i", "-f", environment["SLURM_CONF"]], folder, environment)
        daemons.append(controller)
        slurmds = {}
        for name in names:
            command = ["slurmd", "-D", "-N", name, "-f", environment["SLURM_CONF"]]
            slurmds[name] = _start(hosts.command(name, command) if hosts else command, folder, environment)
            daemons.append(slurmds[name])
        _until_idle(nodes, daemons, folder, environment)
        yield Cluster(folder / "slurm.conf", controller, slurmds, hosts)


def _configure(folder: Path, names: list[str], cpus: int, hosts: network_hosts.Hosts | None) -> None:
    (folder / "state").mkdir()
    this = socket.gethostname()
    ports = _free_ports(len(names) + 1)
    where = {name: f"NodeAddr={hosts.address(name)}" if hosts else f"NodeHostname={this} NodeAddr=127.0.0.1" for name in names}
    lines = [f"NodeName={name} {where[name]} Port={port} CPUs={cpus}" for name, port in zip(names, ports, strict=False)]
    controller = f"{this}({hosts.gateway if hosts else '127.0.0.1'})"
    text = CONF.format(controller=controller, port=ports[-1], folder=folder, kill_wait=KILL_WAIT, nodes="\n".join(lines))
    (folder / "slurm.conf").write_text(text)


def _end(daemons: list[subprocess.Popen], environment: dict[str, str]) -> None:
    subprocess.run(["scancel", "--user=root"], env=environment, capture_output=True, timeout=30)
    _until_empty(environment)
    for daemon in reversed(daemons):
        daemon.send_signal(signal.SIGTERM)
    for daemon in reversed(daemons):
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    for process in _left(environment["SLURM_CONF"]):
        process.kill()


def _left(conf: str) -> list[psutil.Process]:
    """Processes of this cluster that are still running, such as the slurmstepd of a node that was cut off."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("SLURM_CONF") == conf:
                found.append(process)
    return found


def _munged(folder: Path, environment: dict[str, str]) -> subprocess.Popen:
    # munged requires a key and folders that only its own user can write to.
    private = folder / "munge"
    private.mkdir(mode=0o700)
    key = private / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    options = {"key-file": key, "log-file": private / "log", "pid-file": private / "pid", "seed-file": private / "seed"}
    arguments = [f"--{name}={path}" for name, path in options.items()]
    return _start(["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *arguments], folder, environment)


def _start(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen:
    with open(folder / "daemons.out", "ab") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True)


def _until_idle(nodes: int, daemons: list[subprocess.Popen], folder: Path, environment: dict[str, str]) -> None:
    end = time.monotonic() + 30
    while True:
        found = subprocess.run(["sinfo", "-h", "-p", "main", "-N", "-o", "%T"], env=environment, capture_output=True, text=True, timeout=30)
        if found.stdout.split() == ["idle"] * nodes:
            return
        ended = [daemon.args for daemon in daemons if daemon.poll() is not None]
        if ended or time.monotonic() > end:
            outputs = "\n".join(
                path.read_text()[-2000:] for path in [*folder.glob("*.out"), *folder.glob("*.log"), *folder.glob("munge/log")]
            )
            raise RuntimeError(f"Slurm did not come up: {ended or 'no answer'}; {found.stdout}{found.stderr}\n{outputs}")
        time.sleep(0.1)


def _until_empty(environment: dict[str, str]) -> None:
    end = time.monotonic() + 2 * KILL_WAIT + 10
    while time.monotonic() < end:
        found = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, text=True, timeout=30)
        if not found.stdout.strip():
            return
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
