"""The Slurm cluster of tests/cluster/up, for Python: jobs are submitted and followed, nodes are hurt and mended.

    with Cluster() as cluster:
        job = cluster.sbatch("--nodes=2", "slurm/train.sbatch", "quickstart")
        cluster.wait(job, "COMPLETED", within_s=60)

The cluster lives as long as the process that booted it, however that ends; what is left is files, and the next
`boot`, by whomever, clears them. One process at a time may use a cluster's folder: others wait.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
import zlib
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MUST_RUN = "DSTRAIN_CLUSTER_TESTS"
NODES = ("n1", "n2", "n3")
SHOWN_LINES = 60
LOOK_S = 0.2
BOOTS_WITHIN_S = 120.0
NONE = -1
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
SETTLES_WITHIN_S = 5.0
"""a job may be shown in such a state for a moment, before it is in the queue again"""
_KILL_ALL = """for process in /proc/[0-9]*; do
    number=${process#/proc/}
    case $(cat "$process/comm" 2> /dev/null) in
        munged | sshd | sleep) ;;
        *) if [ "$number" -gt 1 ] && [ "$number" != $$ ]; then kill -9 "$number" 2> /dev/null; fi ;;
    esac
done
true"""


def what_is_lacking() -> str | None:
    """Why this machine cannot boot a cluster, in a line; None where it can."""
    done = subprocess.run([HERE / "lacking"], capture_output=True, text=True, timeout=60)
    return None if done.returncode == 0 else done.stdout.strip() or done.stderr.strip()


def skip_or_fail(lacking: str | None) -> None:
    """Without a cluster its tests are skipped, and say so; where they must run, as in .ci/run, they fail."""
    if lacking is not None and os.environ.get(MUST_RUN) == "must":
        pytest.fail(f"{MUST_RUN}=must, and there is no cluster: {lacking}", pytrace=False)
    if lacking is not None:
        pytest.skip(f"no Slurm cluster on this machine: {lacking}")


class Cluster:
    """One controller `ctl` and the nodes n1, n2, n3."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder or Path(f"/tmp/dstrain-cluster-tests-{zlib.crc32(str(ROOT).encode())}")
        self.shared = self.folder / "shared"
        self._environment = {**os.environ, "DSTRAIN_CLUSTER": str(self.folder)}
        self._lock = self._cord = NONE

    def __enter__(self) -> Cluster:
        self.boot()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def boot(self) -> None:
        """Taken down before, if it is up."""
        if self._lock == NONE:
            self._lock = _lock(self.folder)
        self._unplug()
        reading, self._cord = os.pipe()  # whoever reads hears when this process ends
        try:
            subprocess.run([HERE / "up", "--attached"], stdin=reading, stdout=subprocess.DEVNULL, check=True,
                           timeout=BOOTS_WITHIN_S, env=self._environment)
        finally:
            os.close(reading)

    def down(self) -> None:
        subprocess.run([HERE / "down"], check=True, timeout=60, env=self._environment)
        self._unplug()
        os.close(self._lock)
        self._lock = NONE

    def _unplug(self) -> None:
        if self._cord != NONE:
            os.close(self._cord)
            self._cord = NONE

    def on(self, node: str, *command: object, within_s: float = 60, check: bool = True,
           folder: Path = ROOT, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A command on a node, in `folder`, with `env` beside a login's environment."""
        settings = [f"{name}={value}" for name, value in (env or {}).items()]
        done = subprocess.run([HERE / "on", node, *(["env", *settings] if settings else []), *map(str, command)],
                              capture_output=True, text=True, timeout=within_s, cwd=folder, env=self._environment)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(map(str, command))} on {node}: exit code {done.returncode}\n"
                                 f"{done.stdout}{done.stderr}")
        return done

    # Jobs

    def sbatch(self, *arguments: object, folder: Path = ROOT, env: dict[str, str] | None = None) -> str:
        """Its number, as text; a job array's own."""
        return self.on("ctl", "sbatch", "--parsable", *arguments, folder=folder, env=env).stdout.split(";")[0].strip()

    def job(self, job: str) -> dict[str, str]:
        """What the controller knows of it: JobState, Restarts, NodeList, ExitCode, Reason ..."""
        shown = self.on("ctl", "scontrol", "--oneliner", "show", "job", job).stdout.splitlines()[0]
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def wait(self, job: str, states: str, within_s: float, restarts: int = 0) -> dict[str, str]:
        """Until it is in one of `states` (COMPLETED|RUNNING ...), after at least so many restarts."""
        deadline, ended = time.monotonic() + within_s, 0.0
        while True:
            known = self.job(job)
            if known["JobState"] in states.split("|") and int(known["Restarts"]) >= restarts:
                return known
            ended = (ended or time.monotonic()) if known["JobState"] in ENDED else 0.0
            if time.monotonic() > deadline or ended and time.monotonic() > ended + SETTLES_WITHIN_S:
                raise AssertionError(f"job {job} is {known['JobState']} ({known['Reason']}) after {known['Restarts']} "
                                     f"restarts, and was to be {states} within {within_s:.0f} s\n{self.last_words()}")
            time.sleep(LOOK_S)

    def last_words(self) -> str:
        """The ends of all logs: jobs' in the shared folder, Slurm's own."""
        logs = [*sorted(path for path in self.shared.rglob("*.log") if not path.is_symlink()),
                self.folder / "log" / "slurmctld.log"]
        return "\n".join(f"--- {path}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-SHOWN_LINES:])
                         for path in logs)

    # Faults

    def power_off(self, node: str) -> None:
        """At once, with all that runs there."""
        self.on("fabric", "kill", "-9", self._process(node))

    def power_on(self, node: str, within_s: float = 30) -> None:
        """Until its last daemon, slurmd, is there: the controller may not even have noticed that it was away."""
        self.on("fabric", "bash", "-c", 'bash "$0" start "$1" "$2" < /dev/null > /dev/null 2>&1 &',
                HERE / "node.sh", node, self.folder)
        deadline = time.monotonic() + within_s
        while self.on(node, "test", "-s", "/run/slurmd.pid", check=False).returncode:
            assert time.monotonic() < deadline, (self.folder / "log" / f"{node}.log").read_text()
            time.sleep(LOOK_S)

    def cut_link(self, node: str) -> None:
        """Its cable: what runs there goes on, alone."""
        self.on("fabric", "ip", "link", "set", f"to-{node}", "down")

    def mend_link(self, node: str) -> None:
        self.on("fabric", "ip", "link", "set", f"to-{node}", "up")

    def kill_slurmd(self, node: str, jobs_too: bool = False) -> None:
        """slurmd alone; `jobs_too`: the daemons of its steps and every process of a job as well."""
        self.on(node, "bash", "-c", _KILL_ALL if jobs_too else "kill -9 $(cat /run/slurmd.pid)")

    def start_slurmd(self, node: str) -> None:
        """Where it does not run."""
        self.on(node, "bash", "-c", "pgrep --exact slurmd > /dev/null || slurmd")

    def processes(self, node: str, pattern: str) -> list[str]:
        """Those whose command line matches: number and command line."""
        shown = self.on(node, "pgrep", "--list-full", "--full", pattern, check=False).stdout.splitlines()
        return [line for line in shown if "pgrep" not in line]

    def wait_for_nodes(self, within_s: float = 150, nodes: tuple[str, ...] = NODES) -> None:
        """Until all are idle: what a test before has left on them is gone."""
        deadline = time.monotonic() + within_s
        while True:
            states = dict(line.split() for line in self.on(
                "ctl", "sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T").stdout.splitlines())
            if all(states[node] == "idle" for node in nodes):
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"not idle after {within_s:.0f} s: {states}\n{self.last_words()}")
            time.sleep(LOOK_S)

    def _process(self, node: str) -> str:
        return (self.folder / "pids" / node).read_text().strip()


def _lock(folder: Path) -> int:
    """The folder's own lock, waited for. Whoever had it before may have removed the folder on leaving."""
    while True:
        folder.mkdir(exist_ok=True)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            if os.fstat(held).st_ino == folder.stat().st_ino:
                return held
        except FileNotFoundError:
            pass
        os.close(held)
