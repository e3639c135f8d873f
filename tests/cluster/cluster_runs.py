"""Small runs on the cluster: a checkout of dstrain on the shared folder, jobs from it, and their curves compared."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from slurm_cluster import ENDED, LOOK_S, NODES, ROOT, Cluster

from dstrain.train.records import paired_records
from dstrain.train.run_folder import RunFolder, read_lines

STEPS = 60
RECIPE = f"""# a run of seconds, with dropout, validations and a save now and then
family: lm
model: {{width: 32, heads: 2, layers: 2, ff: 64, dropout: 0.1}}
tokenizer: bytes
data: {{train: [{{path: corpus.txt, documents: lines}}], valid: [{{path: valid.txt, documents: lines}}], lanes: 6}}
batch: {{rows: 6, micro_rows: 6, length: 32}}
optim: {{lr: 1.0e-3}}
schedule: {{warmup_steps: 4}}
run: {{name: small, steps: {STEPS}}}
valid: {{every: 20}}
checkpoint: {{every: 4, keep: 3}}
log: {{every: 1, samples: 0, norms_every: 0}}
"""
CLOSE = 1e-5
"""relative: another number of ranks sums in another order"""
STARTS_WITHIN_S, ENDS_WITHIN_S = 180.0, 300.0
"""generous: on a busy machine the imports alone take a minute"""
GONE_WITHIN_S = 20.0
TRAINING = r"launch/|dstrain\.guard|srun "
"""in the command lines of ranks, their observers, and what starts them"""
SLOWLY = {"DSTRAIN_SLOWLY": "0.5", "PYTHONPATH": str(Path(__file__).parent / "slowly")}
"""of a job's environment: half a second a step in its first start, so that it can be hit in the middle"""


class Runs:
    """Run folders are those of the checkout, on the shared folder: runs/NAME."""

    def __init__(self, cluster: Cluster):
        self.cluster, self.checkout = cluster, cluster.shared / "dstrain"
        self.checkout.mkdir()
        for part in ("dstrain", "launch", "slurm", "ds_configs"):
            shutil.copytree(ROOT / part, self.checkout / part)  # with the times of files: what is compiled stays valid
        (self.checkout / ".venv").symlink_to(sys.prefix)
        (self.checkout / "small.yaml").write_text(RECIPE)
        (self.checkout / "corpus.txt").write_text("".join(
            f"{'word ' * (n % 5)}line {n} says that {n} plus one is {n + 1}\n" for n in range(3000)))
        (self.checkout / "valid.txt").write_text("".join(f"{n} plus one is {n + 1}\n" for n in range(12)))

    def submit(self, name: str, *arguments: str, nodes: str = "2", options: tuple[str, ...] = (),
               script: str = "slurm/train_cpu.sbatch", slowly: bool = False, **environment: str) -> str:
        """A job that trains the recipe as run `name`, one CPU rank a node. Its number."""
        return self.cluster.sbatch(
            f"--job-name={name}", f"--nodes={nodes}", "--cpus-per-task=1", "--time=30", *options, script, *arguments,
            "small.yaml", folder=self.checkout, env={**(SLOWLY if slowly else {}), **environment})

    def submit_checked(self, name: str, nodes: str = "2", launcher: str = "deepspeed", slowly: bool = False) -> str:
        """The same by `dstrain submit`; nodes may be 2-3, as many as there are at each start."""
        said = self.cluster.on(
            "ctl", ".venv/bin/python", "-m", "dstrain", "submit", "small.yaml", f"run.name={name}", "--nodes", nodes,
            "--gpus", "0", "--cpus", "1", "--time", "30", "--launcher", launcher, "--shared", folder=self.checkout,
            env=SLOWLY if slowly else {}).stdout
        return re.search(r"^submitted  job (\d+)", said, re.MULTILINE)[1]

    def finish(self, job: str, restarts: int = 0) -> dict[str, str]:
        return self.cluster.wait(job, "COMPLETED", ENDS_WITHIN_S, restarts)

    def finish_array(self, job: str, jobs: int) -> None:
        for number in range(jobs):
            self.finish(f"{job}_{number}")

    def call(self, node: str, *command: object) -> None:
        """A training that is started by hand on a node, to its end; CPU ranks."""
        self.cluster.on(node, *command, folder=self.checkout, within_s=ENDS_WITHIN_S,
                        env={"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"})

    def wait_for_step(self, name: str, job: str, step: int) -> None:
        """In the job's first start."""
        deadline = time.monotonic() + STARTS_WITHIN_S
        while self.last_step(name) < step:
            known = self.cluster.job(job)
            assert time.monotonic() < deadline and known["Restarts"] == "0" and known["JobState"] not in ENDED, (
                f"{name} is at step {self.last_step(name)}, {known['JobState']}, after {known['Restarts']} restarts\n"
                f"{self.cluster.last_words()}")
            time.sleep(LOOK_S)

    def last_step(self, name: str) -> int:
        return max((line["step"] for line in self.records(name)), default=0)

    def records(self, name: str) -> list[dict]:
        metrics = self.folder(name).metrics
        return read_lines(metrics) if metrics.is_file() else []

    def folder(self, name: str) -> RunFolder:
        return RunFolder(self.checkout / "runs" / name)

    @functools.cached_property
    def one_process(self) -> str:
        """The same run without any launcher or cluster: the curve that all others are held against."""
        self.call("ctl", ".venv/bin/python", "launch/train.py", "small.yaml", "run.name=one_process")
        return "one_process"

    @functools.cached_property
    def two_nodes(self) -> str:
        """A job on two nodes that nothing befalls."""
        self.finish(self.submit("two_nodes"))
        return "two_nodes"

    def assert_identical(self, one: str, other: str) -> None:
        """Every record and every byte of the last checkpoint."""
        a, b = self.folder(one), self.folder(other)
        pairs = [(what, x, y) for name in ("metrics", "ledger")
                 for what, x, y in paired_records(getattr(a, name), getattr(b, name))]
        newest = f"step_{STEPS:08d}"
        files = [path for path in sorted((a.checkpoints / newest).iterdir())
                 if path.suffix == ".safetensors" or path.name == "state.json"]
        pairs += [(path.name, path.read_bytes(), (b.checkpoints / newest / path.name).read_bytes()) for path in files]
        assert len(pairs) > 2 * STEPS and len(files) >= 3, len(pairs)
        different = [what for what, x, y in pairs if x != y]
        assert not different, f"{len(different)} of {len(pairs)} differ between {one} and {other}: {different[:5]}"

    def assert_same_curve(self, one: str, other: str) -> None:
        """The same rows to the bit, the same losses to rounding, at every step."""
        rows = [{line["step"]: line["rows"] for line in read_lines(self.folder(name).ledger)} for name in (one, other)]
        assert rows[0] == rows[1] and sorted(rows[0]) == list(range(1, STEPS + 1))
        curves = [self.records(name) for name in (one, other)]
        assert len(curves[0]) == len(curves[1]) > STEPS
        for x, y in zip(*curves):
            assert (x["step"], x.get("split")) == (y["step"], y.get("split"))
            assert abs(x["loss"] / y["loss"] - 1) <= CLOSE, (x, y)

    def assert_went_on(self, name: str, saved: bool) -> None:
        """The second start began at a checkpoint in mid-run: the one that was `saved` on leaving, or an earlier one."""
        said = self.log(name)
        starts = [int(step) for step in re.findall(rf"goes on from runs/{name}/checkpoints/step_(\d+)", said)]
        assert len(starts) == 1 and 0 < starts[0] < STEPS, said
        assert not saved or f"left at step {starts[0]}" in said, said

    def assert_nothing_runs(self) -> None:
        """No process of a training is left on any node, soon after its job's end."""
        deadline = time.monotonic() + GONE_WITHIN_S
        while True:
            left = {node: self.cluster.processes(node, TRAINING) for node in NODES}
            if not any(left.values()):
                return
            assert time.monotonic() < deadline, left
            time.sleep(LOOK_S)

    def log(self, name: str) -> str:
        """What the jobs of that run have printed, in all their starts and on whichever node."""
        logs = [*self.checkout.glob(f"{name}-*.log"), *(self.folder(name).path / "slurm").glob("*-*.log")]
        return "\n".join(path.read_text(errors="replace") for path in sorted(logs, key=lambda log: log.stat().st_mtime))
