"""Nodes lost in the middle of a step: the job comes back on those that are left and ends as if nothing had happened."""

from __future__ import annotations

import pytest

HIT_AT = 6
"""the step that the run has reached when it is hit"""


@pytest.fixture
def on_three(runs):
    """Hits a job of 2 to 3 nodes that runs on all three, and follows it to its end. Its nodes are mended after that."""
    def follow(name: str, hit, launcher: str = "deepspeed") -> dict[str, str]:
        job = runs.submit_checked(name, nodes="2-3", launcher=launcher, slowly=True)
        runs.wait_for_step(name, job, HIT_AT)
        assert runs.cluster.job(job)["NodeList"] == "n[1-3]"
        hit()
        known = runs.finish(job, restarts=1)
        runs.assert_went_on(name, saved=False)
        runs.assert_same_curve(runs.one_process, name)
        return known

    yield follow
    for node in ("n1", "n3"):  # as an operator would: with nothing of the job on them
        runs.cluster.power_off(node)
        runs.cluster.power_on(node)


def test_slurmd_and_all_processes_of_a_node_are_killed(runs, on_three):
    known = on_three("killed", lambda: runs.cluster.kill_slurmd("n3", jobs_too=True))
    assert known["NodeList"] == "n[1-2]"


def test_the_link_of_a_node_is_cut(runs, on_three):
    known = on_three("cut", lambda: runs.cluster.cut_link("n3"))
    assert known["NodeList"] == "n[1-2]"


def test_the_link_of_the_first_node_is_cut_where_the_jobs_script_lives_on_alone(runs, on_three):
    known = on_three("beheaded", lambda: runs.cluster.cut_link("n1"), launcher="srun")
    assert known["NodeList"] == "n[2-3]"
