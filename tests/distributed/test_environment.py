"""A process finds its place in what each cluster sets, and says which variable is wrong."""

import pytest

from alpaca_jax.distributed import DistributedConfig, devices, environment, hostlist
from alpaca_jax.distributed.environment import Place
from alpaca_jax.errors import UserError

LAUNCHER = {"ALPACA_JAX_COORDINATOR": "n0:9000", "ALPACA_JAX_PROCESSES": "4", "ALPACA_JAX_PROCESS": "3"}
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_JOB_ID": "123",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[08-10]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
}
OMPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
JOBSET = {
    "JOBSET_NAME": "llama",
    "REPLICATED_JOB_NAME": "worker",
    "JOB_COMPLETION_INDEX": "1",
    "JOB_COMPLETIONS": "4",
    "JOBSET_REPLICAS": "2",
    "JOB_INDEX": "1",
}
TPU = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "t0,t1"}
SLICES = TPU | {"MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2", "MEGASCALE_COORDINATOR_ADDRESS": "s0:8080"}


def find(environ, metadata=None, **settings):
    return environment.find(DistributedConfig(**settings), environ, metadata)


def where(place):
    return place.rank, place.size, place.coordinator, place.kind


def test_alone_where_nothing_is_set():
    assert where(find({})) == (0, 1, None, "single")
    assert where(find(SLURM | LAUNCHER, processes=1)) == (0, 1, None, "settings")


def test_settings_win_over_the_launcher_and_this_over_the_cluster():
    settings = {"coordinator": "h:1", "processes": 2, "process": 1}
    assert where(find(SLURM, **settings)) == (1, 2, "h:1", "settings")
    assert where(find(SLURM | LAUNCHER)) == (3, 4, "n0:9000", "launcher")
    local = {"ALPACA_JAX_LOCAL_PROCESSES": "2", "ALPACA_JAX_LOCAL_PROCESS": "1", "ALPACA_JAX_ATTEMPT": "7"}
    place = find(LAUNCHER | local)
    assert (place.local_rank, place.local_size, place.attempt) == (1, 2, 7)


def test_slurm():
    place = find(SLURM)
    assert where(place)[:2] == (3, 5) and place.kind == "slurm" and place.coordinator.startswith("gpu08:")
    assert (place.local_rank, place.local_size, place.hosts) == (1, 2, ())
    assert find(SLURM | {"SLURM_RESTART_COUNT": "1"}).coordinator != place.coordinator  # the port of before may still be taken
    alone = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x3)", "SLURM_NTASKS": "3", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
    assert find(alone).hosts == ("gpu08", "gpu09", "gpu10")
    assert find(SLURM, coordinator="[fd00::1]:77").address == ("fd00::1", 77)


def test_the_batch_script_itself_is_no_rank():
    script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}
    with pytest.raises(UserError, match="SLURM_NTASKS=4.*srun"):
        find(script)
    assert find(script | {"SLURM_NTASKS": "1"}).size == 1
    assert find({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}).size == 1  # the shell of salloc


def test_openmpi_on_one_node_and_on_several():
    place = find(SLURM | OMPI)  # mpirun inside an allocation inherits Slurm's variables
    assert where(place) == (1, 2, f"127.0.0.1:{environment.PORT}", "openmpi") and (place.local_rank, place.local_size) == (1, 2)
    several = OMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    with pytest.raises(UserError, match=r"distributed.coordinator: Open MPI"):
        find(several)
    assert where(find(several, coordinator="n0:5")) == (1, 2, "n0:5", "openmpi")


def test_jobset_counts_its_replicas():
    place = find(JOBSET | TPU)
    assert where(place) == (5, 8, f"llama-worker-0-0.llama:{environment.PORT}", "jobset")
    assert place.hosts[5] == "llama-worker-1-1" and len(place.hosts) == 8
    with pytest.raises(UserError, match="JOB_INDEX is absent"):
        find({name: value for name, value in JOBSET.items() if name != "JOB_INDEX"})


def test_tpu_pod_slices_and_the_metadata_server():
    assert where(find(TPU)) == (1, 2, f"t0:{environment.PORT}", "tpu")
    assert where(find(SLICES)) == (5, 6, f"s0:{environment.PORT}", "tpu")
    assert find({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}).size == 1
    said = {"attributes/agent-worker-number": "1", "attributes/worker-network-endpoints": "a:0:10.0.0.1,b:1:10.0.0.2"}
    assert where(find({}, said.get)) == (1, 2, f"10.0.0.1:{environment.PORT}", "tpu")
    assert find({}, lambda _: None).size == 1


@pytest.mark.parametrize(
    ("environ", "settings", "message"),
    [
        ({}, {"processes": 2, "process": 0}, "distributed.coordinator is missing"),
        ({}, {"coordinator": "h:1"}, "distributed.coordinator is given"),
        ({}, {"coordinator": "h:1", "processes": 2, "process": 2}, "distributed.process=2 is not below distributed.processes"),
        ({}, {"coordinator": "h", "processes": 2, "process": 1}, "form host:port"),
        (LAUNCHER, {"coordinator": "n0:9000", "processes": 5, "process": 3}, "distributed.processes=5, but ALPACA_JAX_PROCESSES=4"),
        ({"ALPACA_JAX_PROCESS": "0"}, {}, "ALPACA_JAX_COORDINATOR, ALPACA_JAX_PROCESSES: absent"),
        (LAUNCHER | {"ALPACA_JAX_PROCESS": "x"}, {}, "ALPACA_JAX_PROCESS='x'"),
        (LAUNCHER | {"ALPACA_JAX_PROCESS": "4"}, {}, "ALPACA_JAX_PROCESS=4 is not below ALPACA_JAX_PROCESSES"),
        (LAUNCHER | {"ALPACA_JAX_LOCAL_PROCESS": "0"}, {}, "ALPACA_JAX_LOCAL_PROCESSES: absent"),
        ({name: value for name, value in SLURM.items() if name != "SLURM_JOB_ID"}, {}, "SLURM_JOB_ID is absent"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x3)"}, {}, "SLURM_STEP_TASKS_PER_NODE=.* doesn't fit SLURM_NTASKS=5"),
        (SLURM | {"SLURM_LOCALID": "2"}, {}, "SLURM_LOCALID=2"),
        (SLURM | {"SLURM_STEP_NODELIST": "gpu[08-1x]"}, {}, "SLURM_STEP_NODELIST"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, {}, "OMPI_COMM_WORLD_SIZE"),
        ({"JOBSET_NAME": "a"}, {}, "REPLICATED_JOB_NAME"),
        (JOBSET | {"JOB_INDEX": "2"}, {}, "JOB_INDEX=2 is not below JOBSET_REPLICAS"),
        ({"TPU_WORKER_ID": "0"}, {}, "TPU_WORKER_HOSTNAMES is absent"),
        (TPU | {"TPU_WORKER_ID": "2"}, {}, "TPU_WORKER_ID=2"),
        (TPU | {"MEGASCALE_NUM_SLICES": "2"}, {}, "MEGASCALE_SLICE_ID, MEGASCALE_COORDINATOR_ADDRESS: absent"),
    ],
)
def test_partial_and_contradictory_settings_name_the_variable(environ, settings, message):
    with pytest.raises(UserError, match=message):
        find(environ, **settings)


def test_what_another_run_has_left():
    place = find(SLURM)
    assert environment.stale(place, SLURM) == []
    assert "JAX_COORDINATOR_ADDRESS=old:1" in environment.stale(place, {"JAX_COORDINATOR_ADDRESS": "old:1"})[0]
    assert "MEGASCALE_NUM_SLICES" in environment.stale(place, {"MEGASCALE_NUM_SLICES": "2"})[0]
    assert environment.stale(find(SLICES), SLICES) == []
    assert "MEGASCALE_COORDINATOR_ADDRESS=s0:8080" in environment.stale(find(LAUNCHER), SLICES)[0]


def test_lists_of_nodes():
    assert hostlist.nodes("n1") == ["n1"]
    assert hostlist.nodes("gpu[01-03,7],login") == ["gpu01", "gpu02", "gpu03", "gpu7", "login"]
    assert hostlist.nodes("r[1-2]n[09-10]x") == ["r1n09x", "r1n10x", "r2n09x", "r2n10x"]
    assert hostlist.tasks("2(x3),1") == [2, 2, 2, 1]
    for broken in ("", "n[1", "n[a-b]"):
        with pytest.raises(UserError, match="V="):
            hostlist.nodes(broken, "V")
    with pytest.raises(UserError, match="V="):
        hostlist.tasks("2x3", "V")


# --- the devices of a node --------------------------------------------------------------------------------------------------------


def members(*visible):
    return [{"rank": rank, "host": "n0", "visible_devices": each} for rank, each in enumerate(visible)]


def test_one_process_takes_all_devices_of_its_node_and_several_share_them(tmp_path):
    for number in range(8):
        (tmp_path / f"nvidia{number}").touch()
    (tmp_path / "nvidiactl").touch()
    assert devices.gpus({}, tmp_path) == 8 and devices.gpus({"CUDA_VISIBLE_DEVICES": "2,3"}, tmp_path) == 2
    place = Place(1, 2, "n0:1", "slurm", "n0", 1, 2)
    assert devices.own(Place(0, 2, "n0:1", "slurm", "n0", 0, 1), members(None), {}, tmp_path) is None
    assert devices.own(place, members(None, None), {}, tmp_path) == [4, 5, 6, 7]
    assert devices.own(place, members("0", "1"), {"CUDA_VISIBLE_DEVICES": "1"}, tmp_path) is None  # each has been given its own
    unknown = Place(2, 3, "n0:1", "settings", "n0")
    with pytest.raises(UserError, match="8 GPUs can't be shared equally by the 3 processes"):
        devices.own(unknown, members(None, None, None), {}, tmp_path)


def seen(count=4, chip="H100", platform="gpu", gpus=4):
    return {"devices": count, "chip": chip, "platform": platform, "gpus": gpus, "cpu_wanted": False}


def test_devices_that_are_missing_are_named():
    two = members(None, None)
    devices.check([seen(), seen()], two, 2, 8)
    for found, processes, expected, message in (
        ([seen(), seen()], 1, None, "counts 1 processes, but 2"),
        ([seen(), seen(1, "cpu", "cpu")], 2, None, "rank 1 on n0: the node has 4 GPUs"),
        ([seen(), seen(3)], 2, None, "3 x H100 at rank 1 on n0"),
        ([seen(), seen()], 2, 16, "distributed.devices=16, but the 2 processes see 8"),
    ):
        with pytest.raises(UserError, match=message):
            devices.check(found, two, processes, expected)
