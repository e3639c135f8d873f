"""A node that Slurm alone has lost: its job trains on there while it starts elsewhere, and one of them publishes."""

from __future__ import annotations

HIT_AT = 5


def test_a_job_that_lives_on_behind_a_cut_link_leaves_its_folder_to_its_next_start(runs):
    """One node needs no network to train on; the shared folder is there as before."""
    cluster = runs.cluster
    job = runs.submit("split", nodes="1", slowly=True, DSTRAIN_SLOWLY="2.5")
    runs.wait_for_step("split", job, HIT_AT)
    node = cluster.job(job)["NodeList"]
    cluster.cut_link(node)
    try:
        known = runs.finish(job, restarts=1)
    finally:
        cluster.power_off(node)  # a mended link alone leaves it DOWN for up to a minute
        cluster.power_on(node)
    assert known["NodeList"] != node
    said = "\n".join(path.read_text() for path in sorted(runs.checkout.rglob(f"*{job}*.log")))
    assert "is still held by an earlier start of this Slurm job, process " in said and "it has left" in said, said
    assert "a later start of this Slurm job (process " in said and "publishes nothing more" in said, said
    runs.assert_same_curve(runs.one_process, "split")
