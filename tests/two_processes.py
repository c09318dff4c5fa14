"""Two-process jobs for tests: both processes are started alike with a free port, and awaited."""

import os
import socket
import subprocess
import sys
import time

SCRIPT = """
import os, sys, time
import jax
from alpaca_jax import distributed
from alpaca_jax.distributed import DistributedConfig, StopSignals, any_process, beat, joined
from alpaca_jax.distributed.membership import exit_code
from alpaca_jax.errors import Restart, UserError
jax.config.update("jax_num_cpu_devices", 1)
rank, folder = int(os.environ["ALPACA_JAX_PROCESS"]), sys.argv[1]
config = DistributedConfig(join_minutes=0.5, heartbeat_seconds=10, stuck_minutes=STUCK)
try:
    with joined(config, folder, {"seed": 0}) as membership:
        with StopSignals() as stop, membership.watched(stop):
            for step in range(1, 200):
                assert any_process(True)
                beat(step)
                if rank == 1 and step == 3:
                    open(os.path.join(folder, "three"), "w").close()
                ACTION
                if stop.now():
                    break
                time.sleep(0.1)
        if stop.interrupted:
            raise KeyboardInterrupt
        if stop.why:
            raise Restart(f"stopped by {stop.why} after step {step}")
except BaseException as error:
    print(repr(error), flush=True)
    sys.exit(exit_code(error))
print("done", rank, flush=True)
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Job:
    """The two processes of a job, each with its output in a file; a context that leaves no process behind."""

    def __init__(self, folder, command):
        self.folder, port = folder, free_port()
        self.processes = []
        for rank in range(2):
            environ = os.environ | {"ALPACA_JAX_COORDINATOR": f"127.0.0.1:{port}", "ALPACA_JAX_PROCESSES": "2"}
            environ["ALPACA_JAX_PROCESS"] = str(rank)
            with open(folder / f"rank{rank}.log", "w") as log:
                self.processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environ))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def wait_for(self, path, seconds=90):
        deadline = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < deadline, self.logs()
            assert all(process.poll() is None for process in self.processes), self.logs()
            time.sleep(0.02)

    def codes(self, seconds):
        """The exit codes once both have ended; an error if that takes longer than `seconds`."""
        deadline = time.monotonic() + seconds
        try:
            return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes]
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"not gone after {seconds} s\n{self.logs()}") from error

    def log(self, rank):
        return (self.folder / f"rank{rank}.log").read_text()

    def logs(self):
        return "\n".join(f"--- rank {rank}\n{self.log(rank)}" for rank in range(2))


def scripted(folder, action="pass", stuck=None):
    """A job that takes steps and runs `action` in each, which can use `membership`, `rank` and `step`."""
    script = SCRIPT.replace("ACTION", action).replace("STUCK", str(stuck))
    return Job(folder, [sys.executable, "-W", "ignore", "-c", script, str(folder)])
