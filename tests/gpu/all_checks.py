"""Runs the checks of catalogue.py, each in a process of its own, and keeps the JSON file up to date after every one.

Started by tests/gpu.sh. Checks that measure no time run side by side; those that do, one after the other, after them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from catalogue import CHECKS, Check  # noqa: E402
from environment import missing_packages  # noqa: E402
from frame import NEEDS_GPU, write_json  # noqa: E402

MINUTES = 9.5
"""for everything together, so that a limit of 10 minutes is kept"""
REHEARSAL_PATIENCE = 4
"""times as long, because a CPU may be busy with other things, and nothing is at stake"""
LEAST_S = 10
"""a check is not begun with less time than this"""


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what is running on the way out
    arguments = _arguments()
    if arguments.list:
        print("\n".join(f"{check.name:<22}{check.claim}" for check in CHECKS))
        return
    began = time.monotonic()
    checks = _chosen(arguments.only)
    environment = _environment_or_exit(arguments.rehearse)
    report = Report(arguments, environment)
    print(f"{environment.get('gpu', 'CPU, a rehearsal')}; {len(checks)} checks, at most {arguments.minutes:g} minutes",
          flush=True)
    with tempfile.TemporaryDirectory(prefix="dstrain-gpu-") as folder:
        deadline = began + 60 * arguments.minutes * (REHEARSAL_PATIENCE if arguments.rehearse else 1)
        together = [check for check in checks if not check.alone]
        run_all(together, arguments.jobs, deadline, Path(folder), arguments.rehearse, report)
        run_all([check for check in checks if check.alone], 1, deadline, Path(folder), arguments.rehearse, report)
    report.finish(time.monotonic() - began)
    sys.exit(1 if report.failed else 0)


def run_all(checks: list[Check], jobs: int, deadline: float, folder: Path, rehearsing: bool, report: Report) -> None:
    """At most `jobs` at a time, started in order; each ends by itself, at its budget, or at the deadline."""
    waiting, running = list(checks), []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                check = waiting.pop(0)
                left = deadline - time.monotonic()
                if left < LEAST_S:
                    report.add(check, {"status": "not run", "why": "no time was left", "seconds": 0.0})
                else:
                    running.append(Running(check, min(check.budget_s, left), folder, rehearsing))
            for process in [process for process in running if process.is_over()]:
                running.remove(process)
                report.add(process.check, process.result())
            time.sleep(0.05)
    finally:
        for process in running:
            process.end()


class Running:
    """One check under way."""

    def __init__(self, check: Check, budget_s: float, folder: Path, rehearsing: bool):
        self.check, self.budget_s = check, budget_s * (REHEARSAL_PATIENCE if rehearsing else 1)
        self.notes, self.outcome, self.log = (folder / f"{check.name}.{kind}" for kind in ("notes", "outcome", "log"))
        command = [sys.executable, str(HERE / "one_check.py"), check.name, "--notes", str(self.notes),
                   "--outcome", str(self.outcome), *(["--rehearse"] if rehearsing else [])]
        self.began, self.ended_early = time.monotonic(), False
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, env=_child_environment(rehearsing), stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True)

    def is_over(self) -> bool:
        if self.process.poll() is None and time.monotonic() - self.began > self.budget_s:
            self.ended_early = True
            self.end()
        return self.process.poll() is not None

    def end(self) -> None:
        """With everything that it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def result(self) -> dict:
        seconds = round(time.monotonic() - self.began, 1)
        noted = json.loads(self.notes.read_text()) if self.notes.exists() else {}
        said = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()][-25:]
        if self.outcome.exists():
            outcome = json.loads(self.outcome.read_text())
            status = {True: "passed", False: "failed", None: NEEDS_GPU}[outcome["passed"]]
            return {"status": status, **outcome, "seconds": seconds}
        if self.ended_early:
            return {"status": "out of time", "passed": False, "figures": noted, "seconds": seconds, "log": said,
                    "why": f"not done within {self.budget_s:.0f} s"}
        return {"status": "crashed", "passed": False, "figures": noted, "seconds": seconds, "log": said,
                "why": f"exit code {self.process.returncode}: {said[-1] if said else 'no word'}"}


class Report:
    """The JSON file, and a line on the screen for every check."""

    def __init__(self, arguments: argparse.Namespace, environment: dict):
        self.path = Path(arguments.json)
        self.content = {"what": "dstrain on one GPU" if not arguments.rehearse else "a rehearsal on the CPU: it shows "
                        "that the script works, and nothing about a GPU", "environment": environment, "passed": None,
                        "finished": False, "seconds": None, "checks": {}}
        write_json(self.path, self.content)

    @property
    def failed(self) -> bool:
        return any(found["status"] not in ("passed", NEEDS_GPU) for found in self.content["checks"].values())

    def add(self, check: Check, found: dict) -> None:
        self.content["checks"][check.name] = {"claim": check.claim, "passed": found.get("passed", False), **found}
        write_json(self.path, self.content)
        why = f": {found['why']}" if found.get("why") else ""
        print(f"{found['status']:<12}{check.name:<22}{found['seconds']:6.1f} s{why[:200]}", flush=True)

    def finish(self, seconds: float) -> None:
        statuses = [found["status"] for found in self.content["checks"].values()]
        self.content |= {"passed": not self.failed, "finished": True, "seconds": round(seconds, 1)}
        write_json(self.path, self.content)
        counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
        print(f"{counts}; {seconds:.0f} s; {self.path}")


def _environment_or_exit(rehearsing: bool) -> dict:
    missing = missing_packages()
    if missing:
        _refuse(f"{sys.executable} lacks {', '.join(missing)}: install them, or name another Python with PYTHON=...")
    asked = subprocess.run([sys.executable, "-W", "ignore", str(HERE / "environment.py")], capture_output=True,
                           text=True, env=_child_environment(rehearsing))
    if asked.returncode:
        _refuse(f"{sys.executable} cannot say what it runs on: {asked.stderr.strip().splitlines()[-1]}")
    environment = json.loads(asked.stdout.splitlines()[-1])
    if "gpu" not in environment and not rehearsing:
        _refuse("no GPU that torch can use is here; --rehearse tries the script itself on the CPU")
    return environment


def _child_environment(rehearsing: bool) -> dict[str, str]:
    """One rank, whatever launcher this was started from; a rehearsal sees no GPU, a check no CPU setting."""
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in ranks}
    if not rehearsing:
        return {**kept, "DS_ACCELERATOR": "cuda"}
    return {**kept, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def _chosen(only: str | None) -> list[Check]:
    names = [check.name for check in CHECKS] if only is None else only.split(",")
    unknown = set(names) - {check.name for check in CHECKS}
    if unknown:
        _refuse(f"--only: there is no check {', '.join(sorted(unknown))}; --list names them all")
    return [check for check in CHECKS if check.name in names]


def _refuse(why: str) -> None:
    print(why, file=sys.stderr)
    sys.exit(2)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bash tests/gpu.sh", description=__doc__)
    parser.add_argument("json", nargs="?", default="gpu.json", help="where to write what was found (default: gpu.json)")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU and in small: tries the script itself")
    parser.add_argument("--only", metavar="NAME,NAME", help="these checks only")
    parser.add_argument("--list", action="store_true", help="name all checks, and end")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for all together (default: {MINUTES})")
    parser.add_argument("--jobs", type=int, default=max(1, min(3, len(os.sched_getaffinity(0)) // 2)),
                        help="checks side by side, those that measure time aside (default: up to 3)")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; what was done is in the JSON file", file=sys.stderr)
        sys.exit(130)
