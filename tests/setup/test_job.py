"""slurm/job.sh: what it starts, and what becomes of the job when that ends, on a stand-in for Slurm with two nodes."""

from __future__ import annotations

import time

import pytest
from launch_stubs import calls, copy_of_the_scripts, run_script, write_stub

JOB = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "8",
       "DSTRAIN_SLURM_RETRY_S": "0"}

# Runs its command once a node, one after the other, as srun --ntasks-per-node=1 does side by side. Any node answers.
SRUN = """
import subprocess
command = sys.argv[next(i for i, a in enumerate(sys.argv) if i and not a.startswith("-")):]
if command == ["true"]:
    sys.exit(0)
codes = [subprocess.run(command, env={**os.environ, "SLURM_NODEID": str(n)}).returncode for n in range(2)]
sys.exit(max(codes))
"""
# `scontrol show job` says what stands in the file job_state.
SCONTROL = """
if sys.argv[1:3] == ["show", "hostnames"]:
    print("n1\\nn2")
elif "show" in sys.argv:
    print(open(os.path.join(os.path.dirname(sys.argv[0]), "job_state")).read())
"""


@pytest.fixture
def repo(tmp_path):
    folder = copy_of_the_scripts(tmp_path / "repo")
    write_stub(tmp_path / "bin", "scontrol", then=SCONTROL)
    write_stub(tmp_path / "bin", "srun", then=SRUN)
    write_stub(tmp_path / "bin", "scancel")
    slurm_says(folder, "JobState=RUNNING Reason=None Restarts=0")
    return folder


def slurm_says(repo, words: str) -> None:
    (repo.parent / "bin" / "job_state").write_text(f"JobId=4711 JobName=dstrain {words} Dependency=(null)")


def ranks_end_with(repo, code: int, saved: str | None = None) -> None:
    save = "" if saved is None else f"""
folder = "runs/quickstart/checkpoints"
os.makedirs(folder, exist_ok=True)
open(f"{{folder}}/latest", "w").write({saved!r})"""
    write_stub(repo / "launch", "run_deepspeed.py", then=f"{save}\nsys.exit({code})")


def start(repo, *arguments, **environment):
    return run_script(["bash", "slurm/job.sh", *arguments], repo, repo.parent / "bin", **{**JOB, **environment})


def requeues(repo) -> list[str]:
    return [call["argv"][1] for call in calls(repo.parent / "bin", "scontrol") if call["argv"][0] == "requeue"]


def test_each_node_starts_its_ranks_with_the_same_meeting_point(repo):
    done = start(repo, "quickstart", "run.steps=30", "log.prompt=a b", SLURM_GPUS_ON_NODE="4")
    assert done.returncode == 0, done.stderr
    nodes = calls(repo / "launch", "run_deepspeed.py")
    arguments = [call["argv"] for call in nodes]
    assert [a[a.index("--node_rank") + 1] for a in arguments] == ["0", "1"]
    assert {a[a.index("--master_addr") + 1] for a in arguments} == {"n1"}
    (port,) = {a[a.index("--master_port") + 1] for a in arguments}
    assert 15000 <= int(port) < 30000
    assert arguments[0][-4:] == [f"{repo}/launch/train.py", "quickstart", "run.steps=30", "log.prompt=a b"]
    assert all(call["cwd"] == str(repo) for call in nodes)
    assert all("DS_ACCELERATOR" not in call["env"] for call in nodes)
    hostfile = arguments[0][arguments[0].index("--hostfile") + 1]
    assert open(hostfile).read() == "n1 slots=4\nn2 slots=4\n"


def test_a_restart_meets_at_another_port(repo):
    for restart in ("0", "1"):
        start(repo, "quickstart", SLURM_RESTART_COUNT=restart)
    ports = {call["env"]["MASTER_PORT"] for call in calls(repo / "launch", "run_deepspeed.py")}
    assert len(ports) == 2


def test_one_task_a_rank_under_srun(repo):
    write_stub(repo / "launch", "train.py")
    start(repo, "quickstart", DSTRAIN_LAUNCHER="srun", RANKS_PER_NODE="2")
    (call,) = calls(repo.parent / "bin", "srun")
    assert {"--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=4"} <= set(call["argv"])
    assert call["argv"][-2:] == [f"{repo}/launch/train.py", "quickstart"]
    assert call["env"]["MASTER_ADDR"] == "n1"


def test_a_container_stands_before_every_python(repo):
    write_stub(repo.parent / "bin", "box", then="os.execvp(sys.argv[2], sys.argv[2:])")
    done = start(repo, "quickstart", DSTRAIN_CONTAINER="box --nv")
    assert "run_deepspeed.py" in str(calls(repo.parent / "bin", "box")[-1]["argv"])
    assert done.returncode == 0, done.stderr


def test_without_gpus_the_cores_are_shared_among_cpu_ranks(repo):
    start(repo, "quickstart", RANKS_PER_NODE="2")
    environment = calls(repo / "launch", "run_deepspeed.py")[0]["env"]
    assert environment["DS_ACCELERATOR"] == "cpu"
    assert environment["OMP_NUM_THREADS"] == "4"  # 8 cores a task, 2 ranks


def test_the_recipes_environment_reaches_the_launcher_and_the_shells_wins(repo):
    start(repo, "quickstart", "environment.NCCL_DEBUG=INFO", "environment.OMP_NUM_THREADS=3", "environment.KEPT=x = y",
          NCCL_DEBUG="WARN")
    environment = calls(repo / "launch", "run_deepspeed.py")[0]["env"]
    assert [environment[name] for name in ("NCCL_DEBUG", "OMP_NUM_THREADS", "KEPT")] == ["WARN", "3", "x = y"]


def test_a_broken_recipe_ends_the_job_before_any_node_is_asked(repo):
    done = start(repo, "quickstart", "optim.lrr=1")
    assert done.returncode == 2 and "did you mean 'lr'" in done.stderr
    assert calls(repo.parent / "bin", "srun") == requeues(repo) == []


def test_a_users_mistake_is_not_requeued(repo):
    ranks_end_with(repo, 2)
    assert start(repo, "quickstart").returncode == 2
    assert requeues(repo) == []


def test_who_left_on_request_is_requeued(repo):
    ranks_end_with(repo, 75)
    assert start(repo, "quickstart").returncode == 75
    assert requeues(repo) == ["4711"]


def test_of_an_array_only_the_job_itself_is_requeued(repo):
    ranks_end_with(repo, 75)
    start(repo, "quickstart", SLURM_ARRAY_JOB_ID="4711", SLURM_ARRAY_TASK_ID="2")
    assert requeues(repo) == ["4711_2"]  # 4711 would be all of them


@pytest.mark.parametrize("state, words", [
    ("JobState=COMPLETING Reason=None Restarts=0", "cancelled"),
    ("JobState=CANCELLED Reason=None Restarts=0", "cancelled"),
    ("JobState=COMPLETING Reason=BeginTime Restarts=1", "Slurm has it in the queue"),
])
@pytest.mark.parametrize("code", [75, 1])
def test_what_was_cancelled_or_requeued_by_slurm_is_not_requeued(repo, state, words, code):
    slurm_says(repo, state)
    ranks_end_with(repo, code)
    done = start(repo, "quickstart")
    assert requeues(repo) == [] and words in done.stdout


def test_what_came_to_its_time_limit_is_requeued(repo):
    slurm_says(repo, "JobState=COMPLETING Reason=TimeLimit Restarts=0")
    ranks_end_with(repo, 75)
    start(repo, "quickstart")
    assert requeues(repo) == ["4711"]


def test_near_the_time_limit_the_ranks_are_asked_to_leave_and_waited_for(repo):
    # The stand-in for srun is the script's child: it sends what Slurm sends to the batch shell, and hears it again.
    write_stub(repo.parent / "bin", "srun", then="""
import signal, time
heard = []
signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
os.kill(os.getppid(), signal.SIGUSR1)
time.sleep(1)
sys.exit(75 if heard else 9)""")
    started = time.monotonic()
    done = start(repo, "quickstart")
    assert time.monotonic() - started >= 1.0
    assert done.returncode == 75, done.stdout + done.stderr
    assert requeues(repo) == ["4711"]


def test_failures_without_progress_give_up_and_progress_begins_a_new_count(repo):
    ranks_end_with(repo, 1)
    for restart in ("0", "1"):
        assert start(repo, "quickstart", SLURM_RESTART_COUNT=restart).returncode == 1
    ranks_end_with(repo, 1, saved="step_00000010")
    start(repo, "quickstart")
    assert len(requeues(repo)) == 3
    start(repo, "quickstart")
    assert len(requeues(repo)) == 4
    done = start(repo, "quickstart")
    assert len(requeues(repo)) == 4 and done.returncode == 1
    assert "gives up" in done.stdout and "3 times" in done.stdout and "dstrain postmortem" in done.stdout


def test_another_job_begins_a_count_of_its_own(repo):
    ranks_end_with(repo, 1)
    for job in ("1", "2"):
        start(repo, "quickstart", SLURM_JOB_ID=job, DSTRAIN_GIVE_UP="2")
    assert requeues(repo) == ["1", "2"]


def test_fresh_holds_for_the_first_start_only(repo):
    for restart in ("0", "1"):
        start(repo, "quickstart", "--fresh", "--yes", SLURM_RESTART_COUNT=restart)
    first, again = (call["argv"] for call in calls(repo / "launch", "run_deepspeed.py")[::2])
    assert first[-2:] == ["--fresh", "--yes"] and "--fresh" not in again


CHAIN = {"DSTRAIN_CHAIN": "yes", "SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "1"}


@pytest.mark.parametrize("code, cancelled", [(75, False), (0, True), (2, True)])
def test_a_link_of_a_chain_hands_on_and_the_rest_leaves_when_there_is_nothing_more_to_do(repo, code, cancelled):
    ranks_end_with(repo, code)
    start(repo, "quickstart", **CHAIN)
    assert requeues(repo) == []
    asked = [call["argv"] for call in calls(repo.parent / "bin", "scancel")]
    assert asked == ([["--state=PENDING", "4711"]] if cancelled else [])


SWEEP = {"DSTRAIN_SWEEP": "optim.lr=1e-3,2e-3", "SLURM_ARRAY_JOB_ID": "4710", "SLURM_ARRAY_TASK_COUNT": "2"}


def test_each_job_of_a_sweep_has_its_value_and_its_run_folder(repo):
    for task in ("0", "1"):
        done = start(repo, "quickstart", SLURM_ARRAY_TASK_ID=task, **SWEEP)
        assert done.returncode == 0, done.stderr
    arguments = [call["argv"][-2:] for call in calls(repo / "launch", "run_deepspeed.py")[::2]]
    assert arguments == [[f"optim.lr={value}", f"run.name=quickstart-lr-{value}"] for value in ("1e-3", "2e-3")]


@pytest.mark.parametrize("arguments, environment, reason", [
    ([], {}, "usage: sbatch"),
    (["quickstart"], {"SLURM_JOB_ID": ""}, "inside a Slurm job"),
    (["quickstart"], {"DSTRAIN_LAUNCHER": "mpirun"}, "no such launcher"),
    (["quickstart"], {"DSTRAIN_GIVE_UP": "never"}, "not a number"),
    (["quickstart"], {"RANKS_PER_NODE": "all"}, "not a number"),
    (["quickstart"], {**SWEEP, "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_ID": "0"}, "--array=0-1 fits"),
])
def test_mistakes_are_said_in_one_line(repo, arguments, environment, reason):
    done = start(repo, *arguments, **environment)
    assert done.returncode == 2
    assert reason in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert calls(repo.parent / "bin", "srun") == []


TO_THE_BATCH_SHELL = """
import signal
def parent(pid):
    return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
shell = os.getppid()
while b"job.sh" in open(f"/proc/{parent(shell)}/cmdline", "rb").read():
    shell = parent(shell)
os.kill(shell, signal.SIGUSR1)
"""


def test_asked_before_there_are_ranks_the_job_goes_back_into_the_queue(repo):
    write_stub(repo.parent / "bin", "box", then=TO_THE_BATCH_SHELL + "os.execv(sys.executable, sys.argv[1:])")
    done = start(repo, "quickstart", DSTRAIN_CONTAINER="box")
    assert done.returncode == 75 and requeues(repo) == ["4711"], done.stderr
    assert "asked to leave before any rank was started; back in the queue" in done.stdout
    assert not calls(repo / "launch", "run_deepspeed.py")


@pytest.mark.parametrize("restarts, back", [("0", ["4711"]), ("3", [])])
def test_a_machine_on_which_no_recipe_can_be_read_is_not_the_recipes_mistake(repo, restarts, back):
    write_stub(repo.parent / "bin", "box", then="sys.exit(137)")
    slurm_says(repo, f"JobState=RUNNING Reason=None Restarts={restarts}")
    done = start(repo, "quickstart", DSTRAIN_CONTAINER="box", SLURM_RESTART_COUNT=restarts)
    assert done.returncode == 137 and requeues(repo) == back, done.stderr
    assert ("gives up" in done.stdout) == (not back) and "could not be read" in done.stdout


def test_ranks_that_slurm_ended_have_not_failed(repo):
    ranks_end_with(repo, 1)
    slurm_says(repo, "JobState=COMPLETING Reason=None Restarts=1")
    done = start(repo, "quickstart", DSTRAIN_GIVE_UP="1")
    assert "Slurm has it in the queue again" in done.stdout and "gives up" not in done.stdout, done.stdout
    assert requeues(repo) == [] and not (repo / "runs/quickstart/slurm/failures").exists()


def test_where_no_job_may_be_requeued_a_failed_link_says_that_the_next_goes_on(repo):
    ranks_end_with(repo, 1)
    write_stub(repo.parent / "bin", "scontrol", then=SCONTROL + "elif sys.argv[1] == 'requeue': sys.exit(1)")
    done = start(repo, "quickstart", DSTRAIN_CHAIN="yes", SLURM_ARRAY_JOB_ID="4711", SLURM_ARRAY_TASK_ID="1")
    assert "failed (its reason stands above): the next job of the chain goes on" in done.stdout, done.stdout
    assert not calls(repo.parent / "bin", "scancel")
