"""Jobs on TPU pods, by a stand-in `gcloud` that records its calls and runs the workers as processes on this machine."""

import dataclasses
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import stand_in_gcloud as stand_in
from cluster_jobs import eventually, running_below

from alpaca_jax.cluster import checkout, record, supervise
from alpaca_jax.cluster.job import State
from alpaca_jax.cluster.logs import folder_of
from alpaca_jax.cluster.tpu import gcloud
from alpaca_jax.cluster.tpu import ranks as tpu_ranks
from alpaca_jax.cluster.tpu import slices as tpu_slices
from alpaca_jax.cluster.tpu.backend import TpuPod
from alpaca_jax.cluster.tpu.slices import hosts
from alpaca_jax.errors import UserError

QUEUED = {"accelerator_type": "v4-16", "runtime_version": "tpu-ubuntu2204-base"}
HERE = {"zone": "z", "setup": "true", "python": sys.executable, "shared_disk": "true"}
READY = "(folder / f'ready-{attempt}-{rank}').write_text(str(os.getpid()))\n"
WAIT = "time.sleep(60)\n"
STEP = "(folder / 'train' / 'checkpoints' / str(attempt)).mkdir(parents=True)\n"
# The supervisor as a process, which asks Google more often than one would.
SUPERVISE = """
import sys
from pathlib import Path
from alpaca_jax.cluster.tpu import backend as tpu_pod
from alpaca_jax.cluster.tpu import slices as tpu_slices
tpu_slices.POLL_SECONDS = 0.05
sys.exit(tpu_pod.supervise_pod(Path(sys.argv[1])))
"""


@pytest.fixture(autouse=True)
def google(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "google"
    folder.mkdir()
    monkeypatch.setenv(gcloud.VARIABLE, str(stand_in.install(folder)))
    monkeypatch.setattr(supervise, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(tpu_slices, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(tpu_ranks, "REACH_SECONDS", 1.0)
    monkeypatch.setattr(tpu_ranks, "GRACE_SECONDS", 2.0)
    return folder


@pytest.fixture
def pod_job(scripted):
    """Makes a job of two workers."""

    def make(lines: str, **rest):
        options = {**HERE, **QUEUED, **rest.pop("options", {})}
        return scripted(lines, nodes=rest.pop("nodes", 2), options={key: value for key, value in options.items() if value}, **rest)

    return make


def run(job, capsys):
    """Runs a job in the foreground: its exit code, its record, and what the person saw."""
    code = TpuPod().run(job)
    shown = capsys.readouterr()
    return code, record.read(job.folder), shown.out + shown.err


def log(job, rank, attempt=0) -> str:
    return (folder_of(job.folder, attempt) / f"rank-{rank:04d}.log").read_text()


def launch(job) -> subprocess.Popen:
    TpuPod()._prepare(job)
    return subprocess.Popen([sys.executable, "-c", SUPERVISE, str(job.folder)], stderr=subprocess.PIPE, text=True)


def ready(job, attempt=0):
    eventually(lambda: all((job.folder / f"ready-{attempt}-{rank}").exists() for rank in range(job.processes)), 20)


def made(google) -> list[str]:
    return [path.stem for path in (google / "queued-resources").glob("*")]


def test_a_job_gets_its_slice_runs_on_all_workers_and_gives_it_back(pod_job, google, capsys, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    told = "print('rank', rank, 'of', processes, len(os.environ['MY_TOKEN']), os.environ['MINE'], os.environ['TPU_WORKER_ID'])\n"
    where = "print(os.environ['ALPACA_JAX_COORDINATOR'], Path('alpaca_jax/cluster/remote.py').exists(), 'HERE' in os.environ)\n"
    monkeypatch.setenv("HERE", "is not there")
    job = pod_job(told + where, secrets=("MY_TOKEN",), environment={"MINE": "x"})
    code, found, shown = run(job, capsys)
    assert (code, found.state, found.id) == (0, State.done, "job"), shown
    for rank in range(2):
        lines = log(job, rank).splitlines()
        assert lines[0].startswith(f"[alpaca-jax rank={rank} host=job-w-{rank} ") and "exit=0" in lines[-1]
        assert lines[2:-1] == [f"rank {rank} of 2 6 x {rank}", "127.0.0.1:8476 True False"]
    assert "rank 0 of 2" in shown and "rank 1 of 2" not in shown
    asked = stand_in.calls(google)
    assert [" ".join(call[:2]) for call in asked if call[1] in ("create", "scp", "ssh", "delete")] == [
        "queued-resources create", "tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh", "queued-resources delete",
    ]  # fmt: skip
    assert all("--zone=z" in call and "--quiet" in call for call in asked)
    assert made(google) == [] and not running_below(job.folder)
    everywhere = [path for path in [*google.rglob("*"), *job.folder.rglob("*")] if path.is_file()]
    assert not [path for path in everywhere if b"s3cret" in path.read_bytes()]


def test_a_worker_that_raises_ends_the_job_with_its_traceback_first(pod_job, google, capsys):
    job = pod_job("if rank == 1:\n    raise ValueError('broken')\n" + WAIT)
    start = time.monotonic()
    code, found, shown = run(job, capsys)
    assert time.monotonic() - start < 15
    assert (code, found.state, len(found.attempts)) == (1, State.failed, 1)
    assert "rank 1 on " in shown and "ended with exit code 1 first" in shown and "ValueError: broken" in shown
    assert not running_below(job.folder) and made(google) == []


@pytest.mark.parametrize(("code", "attempts"), [(200, 2), (134, 2), (2, 1), (130, 1)])
def test_what_a_restart_can_mend_is_started_again_on_the_same_slice(pod_job, google, capsys, code, attempts):
    got, found, _ = run(pod_job(f"sys.exit(0 if attempt else {code})"), capsys)
    assert (got, len(found.attempts)) == (0 if attempts == 2 else code, attempts)
    assert sum(call[1] == "create" for call in stand_in.calls(google)) == 1


def test_a_preempted_slice_is_asked_for_again_and_the_job_goes_on(pod_job, google):
    job = pod_job(f"{READY}if attempt == 0:\n    {WAIT}", restarts=1)
    launcher = launch(job)
    ready(job)
    stand_in.preempt(google, "job")
    _, said = launcher.communicate(timeout=30)
    found = record.read(job.folder)
    assert (launcher.returncode, found.state) == (0, State.done), said
    assert [attempt.exit_code for attempt in found.attempts] == [201, 0] and "was cut off" in said
    asked = [call[1] for call in stand_in.calls(google) if call[0] == "queued-resources" and call[1] != "describe"]
    assert asked == ["create", "delete", "create", "delete"]


def test_a_slice_that_exists_is_used_and_left(pod_job, google, capsys):
    stand_in.make_tpu(google, "mine", 2)
    job = pod_job("print(rank)", options={"tpu": "mine", "accelerator_type": "", "runtime_version": ""})
    code, found, _ = run(job, capsys)
    assert (code, found.id) == (0, "mine")
    assert (google / "tpu-vm" / "mine.json").exists() and all(call[0] == "tpu-vm" for call in stand_in.calls(google))


def test_several_slices_are_one_job(pod_job, google, capsys):
    job = pod_job("print('rank', rank, 'of', processes)", nodes=4, options={"slices": "2", "spot": "true"})
    code, _, _ = run(job, capsys)
    assert code == 0 and "rank 2 of 4" in log(job, 2) and "host=job-1-w-0" in log(job, 2)
    create = next(call for call in stand_in.calls(google) if call[1] == "create")
    assert {"--node-count=2", "--node-prefix=job", "--spot"} <= set(create)


def test_cancel_lets_the_job_save_and_gives_the_slice_back(pod_job, google):
    job = pod_job(f"import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(200))\n{READY}{WAIT}")
    launcher = launch(job)
    ready(job)
    assert TpuPod().state(job.folder).state is State.running
    TpuPod().cancel(job.folder)
    launcher.communicate()
    found = record.read(job.folder)
    assert (found.state, found.exit_code) == (State.cancelled, 200)
    assert made(google) == [] and not running_below(job.folder)


def test_a_killed_launcher_lets_the_workers_save_and_cancel_deletes_what_it_had_made(pod_job, google):
    job = pod_job(f"import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit({STEP.strip()} or 200))\n{READY}{WAIT}")
    launcher = launch(job)
    ready(job)
    launcher.kill()
    launcher.communicate()
    eventually(lambda: not running_below(job.folder), 10)
    assert (job.folder / "train" / "checkpoints" / "0").exists()
    assert TpuPod().state(job.folder).state is State.lost and made(google) == ["job"]
    TpuPod().cancel(job.folder)
    assert made(google) == [] and record.read(job.folder).state is State.cancelled


def test_a_job_in_the_background_is_followed_to_its_end(pod_job, google):
    stand_in.make_tpu(google, "mine", 2)
    job = pod_job("print(rank)", options={"tpu": "mine", "accelerator_type": "", "runtime_version": ""})
    TpuPod().submit(job)
    eventually(lambda: TpuPod().state(job.folder).state is State.done, 30)
    TpuPod().submit(job)  # done: left alone
    assert len(record.read(job.folder).attempts) == 1


def test_a_setup_that_fails_is_shown_with_its_host(pod_job, capsys):
    code, found, shown = run(pod_job("pass", options={"setup": "echo no such package; false"}), capsys)
    assert (code, found.state, len(found.attempts)) == (2, State.failed, 1)
    assert "on job-w-" in shown and "no such package" in shown and "the setup has failed" in shown


def test_a_queued_resource_that_fails_says_why_and_is_deleted(pod_job, google, capsys):
    (google / "refuse-create").write_text("RESOURCE_EXHAUSTED: Quota limit 'TPUV4PerProject' has been exceeded")
    code, found, shown = run(pod_job("pass"), capsys)
    assert (code, found.state) == (2, State.failed) and "Quota limit" in shown
    assert made(google) == []


def test_a_queue_that_cannot_serve_says_why(pod_job, google, capsys):
    (google / "fail").write_text("There is no more capacity in the zone")
    code, found, shown = run(pod_job("pass"), capsys)
    assert (code, found.state) == (2, State.failed) and "no more capacity" in shown and made(google) == []


def test_a_wait_outlasts_answers_that_do_not_come(pod_job, google, monkeypatch):
    known, failures = gcloud.describe, iter(range(3))

    def describe(*arguments):
        if next(failures, None) is not None:
            raise UserError("connection reset")
        return known(*arguments)

    monkeypatch.setattr(gcloud, "describe", describe)
    workers = tpu_slices.Slices(pod_job("pass")).acquire(lambda: False)
    assert [(worker.host, worker.address) for worker in workers] == [("job-w-0", "127.0.0.1"), ("job-w-1", "127.0.0.2")]
    monkeypatch.setattr(tpu_slices, "PATIENCE", 2)
    failures = iter(range(9))
    with pytest.raises(UserError, match="connection reset"):
        tpu_slices.Slices(pod_job("pass")).acquire(lambda: False)


def test_the_code_is_packed_without_what_it_leaves_behind(tmp_path):
    checkout.pack(tmp_path / "code.tar.gz")
    with tarfile.open(tmp_path / "code.tar.gz") as archive:
        names = archive.getnames()
    needed = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "configs/train.yaml", "alpaca_jax/cluster/checkout.py"}
    assert needed <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests", ".git", "runs"))]


@pytest.mark.parametrize(
    ("options", "rest", "message"),
    [
        ({"zone": ""}, {}, "zone= is missing"),
        ({"accelerator_type": ""}, {}, "give tpu=NAME"),
        ({"tpu": "mine"}, {}, "accelerator_type= is for slices to create"),
        ({"tpu": "none", "accelerator_type": "", "runtime_version": ""}, {}, "tpu=none: there is no such slice"),
        ({"tpu": "gone", "accelerator_type": "", "runtime_version": ""}, {}, "tpu=gone is PREEMPTED"),
        ({"accelerator_type": "v9-16"}, {}, "accelerator_type=v9-16: unknown TPU"),
        ({"accelerator_type": "v4-32"}, {"nodes": 4}, "accelerator_type=v4-32 doesn't exist in zone=z"),
        ({"runtime_version": "old"}, {}, "runtime_version=old doesn't exist in zone=z"),
        ({}, {"nodes": 3}, "nodes=3, but these TPUs have 2 hosts: give nodes=2"),
        ({"slices": "two"}, {}, "slices=two"),
        ({"shared_disk": ""}, {}, "share no disk.*give dir=gs://"),
        ({"zon": "z"}, {}, "'zon' is not an option of TPU pods.*zone"),
        ({}, {"secrets": ("NOT_SET",)}, "needs NOT_SET"),
        ({}, {"time_limit": 5}, "time_limit"),
        ({}, {"processes_per_node": 2}, "processes_per_node=2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_said_before_anything_is_made(pod_job, google, options, rest, message):
    stand_in.make_tpu(google, "gone", 2, "PREEMPTED")
    per_node = rest.pop("processes_per_node", 1)
    job = dataclasses.replace(pod_job("pass", options=options, **rest), processes_per_node=per_node)
    with pytest.raises(UserError, match=message):
        TpuPod().submit(job)
    assert not record.exists(job.folder) and made(google) == []


def test_names_and_machines_of_others_are_left_alone(pod_job, google, monkeypatch):
    job = pod_job("pass")
    with pytest.raises(UserError, match="'Job' is not valid for Google"):
        TpuPod().check(dataclasses.replace(job, name="Job"))
    stand_in._write(google / "queued-resources" / "job.json", {"state": {"state": "ACTIVE"}})
    with pytest.raises(UserError, match="queued resource job exists already"):
        TpuPod().check(job)
    monkeypatch.setenv(gcloud.VARIABLE, "no-such-gcloud")
    with pytest.raises(UserError, match="no no-such-gcloud on the PATH"):
        TpuPod().check(job)


def test_the_hosts_of_a_slice():
    known = {"v3-8": 1, "v4-8": 1, "v4-32": 4, "v5p-128": 16, "v5litepod-8": 1, "v5litepod-16": 4, "v6e-256": 64}
    assert {accelerator: hosts(accelerator) for accelerator in known} == known


def test_launch_tpu_pod_sh_runs_the_command_line(tmp_path, google):
    root = Path(__file__).parents[3]
    stand_in.make_tpu(google, "mine", 1)
    options = [word for key, value in {**HERE, "tpu": "mine"}.items() for word in ("--option", f"{key}={value}")]
    command = [root / "launch" / "tpu_pod.sh", *options, "train", f"dir={tmp_path / 'run'}", "no_such_key=1"]
    found = subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}, cwd=root, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2 and "no_such_key" in found.stderr and "rank 0 on" in found.stderr, found.stderr
    assert json.loads((tmp_path / "run" / "job.json").read_text())["state"] == "failed"
