"""The cluster itself: three nodes of their own, faults that do what they say, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import HERE, MUST_RUN, NODES, Cluster, skip_or_fail

GONE_WITHIN_S = 20.0
WATCHED_FOLDERS = ("/etc", "/run", "/var/spool", "/var/log", "/var/lib/slurm", "/var/lib/munge", "/root/.ssh")


@pytest.fixture
def folder(tmp_path_factory, machine):
    """Of a cluster of this test's own; nothing of it is left, whatever the test does."""
    path = Path(f"/tmp/dstrain-cluster-own-{os.getpid()}")
    yield path
    call("down", path)


def call(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HERE / script, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env={**os.environ, "DSTRAIN_CLUSTER": str(folder)}, timeout=120)


def traces(folder: Path) -> dict[str, set[str]]:
    """What a cluster could leave on the machine, by kind. Other clusters beside this one are not its traces."""
    return {
        "processes": {process.name for process in _processes() if str(folder) in "".join(
            _read(process / name) for name in ("cmdline", "environ", "mountinfo"))},
        "mounts": set(Path("/proc/self/mountinfo").read_text().splitlines()),
        "interfaces": set(os.listdir("/sys/class/net")),
        "files": {str(path) for top in WATCHED_FOLDERS for path in Path(top).rglob("*")} | {
            str(path) for path in folder.parent.iterdir() if path == folder},
    }


def namespaces(numbers: set[str] | None = None) -> set[str]:
    """Those that these processes live in, or any process at all."""
    kinds = [process / "ns" / kind for process in _processes() if numbers is None or process.name in numbers
             for kind in ("net", "mnt", "pid", "uts", "ipc")]
    return {_link(path) for path in kinds} - {""}


def _processes() -> list[Path]:
    return [path for path in Path("/proc").iterdir() if path.name.isdigit()]


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:  # it has ended meanwhile
        return ""


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def left_behind(before: dict[str, set[str]], folder: Path, within_s: float = GONE_WITHIN_S) -> dict[str, set[str]]:
    """Of each kind, what was not there before; {} as soon as that is nothing. Other programs' comings pass by."""
    deadline = time.monotonic() + within_s
    while True:
        after = traces(folder)
        left = {kind: after[kind] - before[kind] for kind in before if after[kind] - before[kind]}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)


def test_up_by_hand_boots_three_nodes_and_down_leaves_no_trace(folder):
    before = traces(folder)
    up = call("up", folder)
    assert up.returncode == 0, up.stderr
    assert call("on", folder, "ctl", "sinfo", "-h", "-p", "main", "-o", "%D %T").stdout == "3 idle\n"
    while_up = traces(folder)
    own = namespaces(while_up["processes"]) - namespaces({str(os.getpid())})
    assert len(own) == 1 + 2 + 4 * 5 and len(while_up["processes"]) > 20, "the fabric's three and five a node"
    assert while_up["mounts"] <= before["mounts"] and while_up["interfaces"] <= before["interfaces"]
    assert call("down", folder).returncode == 0
    assert left_behind(before, folder) == {}
    assert not own & namespaces()
    assert call("down", folder).returncode == 0, "down of a cluster that is not there"


def test_up_again_takes_down_what_is_there(folder):
    before = traces(folder)
    assert call("up", folder).returncode == 0
    (folder / "shared" / "old").touch()
    assert call("up", folder).returncode == 0
    assert not (folder / "shared" / "old").exists()
    assert call("on", folder, "ctl", "srun", "-N3", "hostname").stdout.split() != []
    call("down", folder)
    assert left_behind(before, folder) == {}


@pytest.mark.parametrize("after_s", [0.05, 0.3, 0.7])
def test_an_up_that_is_killed_half_way_leaves_nothing_that_down_and_up_do_not_clear(folder, after_s):
    before = traces(folder)
    process = subprocess.Popen([HERE / "up"], env={**os.environ, "DSTRAIN_CLUSTER": str(folder)},
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after_s)
    process.kill()
    process.wait()
    up = call("up", folder)
    assert up.returncode == 0, up.stderr
    call("down", folder)
    assert left_behind(before, folder) == {}


def test_the_cluster_of_a_harness_that_is_killed_ends_with_it(folder):
    before = traces(folder)
    harness = subprocess.Popen(
        [sys.executable, "-c", "import sys, time; from pathlib import Path; from slurm_cluster import Cluster\n"
         "Cluster(Path(sys.argv[1])).boot(); print('up', flush=True); time.sleep(600)", folder],
        cwd=HERE, stdout=subprocess.PIPE, text=True)
    assert harness.stdout.readline() == "up\n"
    job = call("on", folder, "ctl", "sbatch", "--parsable", "--nodes=3", "--output=/dev/null", "--wrap",
               "srun sleep 600").stdout
    assert job.strip().isdigit()
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    harness.stdout.close()
    without_files = {kind: seen for kind, seen in before.items() if kind != "files"}
    assert left_behind(without_files, folder) == {}
    assert folder.is_dir()
    assert call("on", folder, "n1", "true").returncode == 2
    with Cluster(folder) as cluster:
        assert cluster.on("ctl", "squeue", "--noheader").stdout == ""
    assert left_behind(before, folder) == {}


def test_a_folder_that_is_no_clusters_is_never_touched(folder):
    folder.mkdir()
    (folder / "mine").write_text("dear to me")
    refused = call("up", folder)
    assert refused.returncode == 2 and "no cluster's folder" in refused.stderr
    assert call("down", folder).returncode == 0
    assert (folder / "mine").read_text() == "dear to me"
    shutil.rmtree(folder)


@pytest.mark.parametrize("must, outcome", [("", pytest.skip.Exception), ("must", pytest.fail.Exception)])
def test_without_a_cluster_the_tests_say_why_and_where_they_must_run_they_fail(monkeypatch, must, outcome):
    monkeypatch.setenv(MUST_RUN, must)
    with pytest.raises(outcome, match="not installed: slurmctld"):
        skip_or_fail("not installed: slurmctld")
    skip_or_fail(None)


def test_who_is_not_root_is_told_so(machine):
    # Of the file's text: another user may have no way into the folder where it lies.
    lacking = (HERE / "lacking").read_text()
    done = subprocess.run(["setpriv", "--reuid", "65534", "--clear-groups", "bash", "-c", lacking],
                          capture_output=True, text=True, cwd="/")
    assert done.returncode == 1 and "needs root" in done.stdout and len(done.stdout.splitlines()) == 1


def test_each_node_is_a_machine_of_its_own(runs):
    cluster = runs.cluster
    for number, node in enumerate(NODES, 1):
        said = cluster.on(node, "bash", "-c", "hostname; hostname -I; touch /tmp/mine /dev/shm/mine /run/mine; "
                          "ls /dev/shm; pgrep --count slurmd").stdout.split()
        assert said == [node, f"10.77.0.{number}", "mine", "1"]
    assert not Path("/tmp/mine").exists() and not Path("/dev/shm/mine").exists() and not Path("/run/mine").exists()
    said = cluster.on("ctl", "srun", "--nodes=3", "--gpus-per-node=2", "bash", "-c",
                      "echo $(hostname) $SLURM_GPUS_ON_NODE")
    assert sorted(said.stdout.splitlines()) == ["n1 2", "n2 2", "n3 2"]
    said = cluster.on("n1", "pdsh", "-w", "n2,n3", "hostname", env={"PDSH_RCMD_TYPE": "ssh"})
    assert sorted(said.stdout.splitlines()) == ["n2: n2", "n3: n3"]


def reaches(cluster: Cluster, one: str, other: str) -> bool:
    return cluster.on(one, "timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{other}/22", check=False).returncode == 0


def test_a_cut_link_and_a_node_without_power_are_what_they_say(runs):
    cluster = runs.cluster
    assert reaches(cluster, "n1", "n3")
    cluster.cut_link("n3")
    assert not reaches(cluster, "n1", "n3") and not reaches(cluster, "n3", "n1")
    assert cluster.on("n3", "hostname").stdout == "n3\n", "it goes on, alone"
    cluster.mend_link("n3")
    assert reaches(cluster, "n1", "n3")
    cluster.power_off("n3")
    assert cluster.on("n3", "true", check=False).returncode != 0
    cluster.power_on("n3")
    for node in NODES:  # on again at once: what is left of its cable is no hindrance
        cluster.power_off(node)
        cluster.power_on(node)
    cluster.wait_for_nodes()
    assert reaches(cluster, "n1", "n3")
    cluster.kill_slurmd("n2", jobs_too=True)
    assert cluster.on("n2", "pgrep", "slurmd", check=False).stdout == ""
    cluster.start_slurmd("n2")
    cluster.wait_for_nodes()
