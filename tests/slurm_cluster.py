"""A real Slurm on this machine: Debian's munged, slurmctld and several slurmd in a folder of their own, ended by their process ids."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PACKAGES = "slurmctld slurmd slurm-client munge"
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
KILL_WAIT = 5  # seconds from SIGTERM to SIGKILL of a cancelled job

CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
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
    """Why there can be no Slurm here, None where there can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"no Slurm here ({', '.join(absent)}): apt-get install --no-install-recommends {PACKAGES}"
    return None if os.geteuid() == 0 else "a Slurm of one's own needs root"


@contextlib.contextmanager
def cluster(folder: Path, nodes: int = 2, cpus: int = 4) -> Iterator[Path]:
    """A running cluster with nodes n1, n2 ...; yields its slurm.conf, which SLURM_CONF has to name. Ends all it has started."""
    daemons: list[subprocess.Popen] = []
    conf = folder / "slurm.conf"
    ports = _free_ports(nodes + 1)
    lines = [f"NodeName=n{i + 1} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={ports[i]} CPUs={cpus}" for i in range(nodes)]
    text = CONF.format(host=socket.gethostname(), port=ports[-1], folder=folder, kill_wait=KILL_WAIT, nodes="\n".join(lines))
    conf.write_text(text)
    (folder / "state").mkdir()
    environment = os.environ | {"SLURM_CONF": str(conf), "PATH": _path()}
    try:
        daemons.append(_munged(folder, environment))
        daemons.append(_start(["slurmctld", "-D", "-i", "-f", str(conf)], folder, environment))
        for i in range(nodes):
            daemons.append(_start(["slurmd", "-D", "-N", f"n{i + 1}", "-f", str(conf)], folder, environment))
        _until_idle(nodes, daemons, folder, environment)
        yield conf
    finally:
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


def _munged(folder: Path, environment: dict[str, str]) -> subprocess.Popen:
    # munged insists on a key and folders that nobody else can write to, and runs as its owner.
    private = folder / "munge"
    private.mkdir(mode=0o700)
    key = private / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    options = {"key-file": key, "log-file": private / "log", "pid-file": private / "pid", "seed-file": private / "seed"}
    arguments = [f"--{name}={path}" for name, path in options.items()]
    return _start(["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *arguments], folder, environment)


def _start(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen:
    assert pwd.getpwuid(os.geteuid()).pw_name == "root"
    with open(folder / f"{command[0]}.out", "ab") as output:
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
