"""Jobs that are asked to leave in mid-run, for whatever reason, come back and end as the run that nobody asked."""

from __future__ import annotations

HIT_AT = 6
"""the step that the run has reached when it is hit"""


def test_at_its_time_limit_a_job_saves_comes_back_and_goes_on_bit_identically(runs):
    job = runs.submit("limit", options=("--signal=B:USR1@110",), slowly=True)
    runs.wait_for_step("limit", job, HIT_AT)
    runs.cluster.on("ctl", "scontrol", "update", f"JobId={job}", "TimeLimit=2")  # the signal comes ten seconds in
    runs.cluster.wait(job, "PENDING|RUNNING", 90, restarts=1)
    runs.cluster.on("ctl", "scontrol", "update", f"JobId={job}", "TimeLimit=30")
    assert_came_back(runs, job, "limit", saved=True)


def test_a_submitted_job_that_is_requeued_by_hand_goes_on_bit_identically(runs):
    job = runs.submit_checked("requeued", slowly=True)
    runs.wait_for_step("requeued", job, HIT_AT)
    runs.cluster.on("ctl", "scontrol", "requeue", job)
    assert_came_back(runs, job, "requeued", saved=True)


def test_a_job_that_a_higher_partition_preempts_goes_on_bit_identically(runs):
    job = runs.submit("preempted", slowly=True, DSTRAIN_LAUNCHER="srun")
    runs.wait_for_step("preempted", job, HIT_AT)
    urgent = runs.cluster.sbatch("--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap",
                                 "sleep 1")
    runs.cluster.wait(urgent, "COMPLETED", 90)
    assert_came_back(runs, job, "preempted", saved=True)


def assert_came_back(runs, job: str, name: str, saved: bool) -> None:
    known = runs.finish(job, restarts=1)
    assert known["Restarts"] == "1", "hit once, it came back once"
    runs.assert_went_on(name, saved)
    runs.assert_identical(runs.two_nodes, name)
    runs.assert_nothing_runs()
