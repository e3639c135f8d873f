"""What Slurm's programs answer, and what is made of it."""

from __future__ import annotations

import pytest
from slurm_stand_in import SlurmStandIn

from dstrain.cluster import slurm
from dstrain.config.errors import Trouble, UserError


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    stand_in = SlurmStandIn(tmp_path / "slurm")
    monkeypatch.setenv("PATH", stand_in.path)
    return stand_in


def test_nodes_come_with_partition_gpus_and_limits(stand_in):
    first, second, third, cpu, closed = slurm.nodes()
    assert (first.name, first.partition, first.is_default, first.gpus, first.cpus) == ("n1", "gpu", True, 4, 32)
    assert first.time_limit_s == 2 * 86400 and cpu.time_limit_s is None and cpu.gpus == 0
    assert (first.most_nodes, cpu.most_nodes, closed.most_nodes) == (None, 1, 2)
    assert second.is_there and not third.is_there and not closed.is_up


@pytest.mark.parametrize("gres, gpus", [("(null)", 0), ("gpu:2", 2), ("gpu:a100:4(S:0-1)", 4), ("nvme:1,gpu:8", 8),
                                        ("gpu:a100:4,gpu:v100:2(S:1)", 6), ("craynetwork:4", 0)])
def test_gpus_are_counted_from_what_nodes_are_made_of(stand_in, gres, gpus):
    stand_in.nodes(f"n1|gpu*|up|1:00:00|1-infinite|{gres}|8|1000|idle")
    assert slurm.nodes()[0].gpus == gpus


def test_without_slurm_there_is_no_answer_rather_than_an_empty_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.nodes() is None and slurm.jobs(["1"]) is None and slurm.jobs([]) == {}
    with pytest.raises(UserError, match="no sbatch on this machine.*--dry-run"):
        slurm.submit("x.sbatch", {"PATH": str(tmp_path)})


def test_a_job_is_found_by_each_of_its_numbers(stand_in):
    stand_in.queue("7_1|9|RUNNING|None|n1|1:00:00|5:00", "7_0|8|RUNNING|None|n2|1:00:00|5:00",
                   "7_10|7|PENDING|Priority||2:00:00|0:00", "77_0|77|RUNNING|None|n3|1:00:00|1:00")
    found = slurm.jobs(["7", "77"])
    assert [job.number for job in slurm.of_number("7", found)] == ["7_0", "7_1", "7_10"]
    assert [job.where for job in slurm.of_number("9", found)] == ["n1"]
    assert found["7_1"].left_s == 3600 and found["7_1"].used_s == 300
    assert found["7_10"].is_queued and found["7_10"].reason == "Priority" and not found["7_1"].is_queued
    assert [job.where for job in slurm.of_number("77", found)] == ["n3"]
    assert "77_0" not in slurm.jobs(["7"])


def test_who_left_the_queue_is_asked_of_the_accounting(stand_in):
    stand_in.accounting("5|5|CANCELLED by 1000|n1", "6_[3-9]|6|PENDING|None assigned", "6_0|8|COMPLETED|n2")
    found = slurm.jobs(["5", "6"])
    assert found["5"].state == "CANCELLED" and found["5"].is_over
    assert [job.number for job in slurm.of_number("6", found)] == ["6_0"]


@pytest.mark.parametrize("words, kind", [
    ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
     UserError), ("sbatch: error: Unable to contact slurm controller (connect failure)", Trouble)])
def test_a_refusal_is_the_users_or_the_clusters(stand_in, tmp_path, words, kind):
    stand_in.refuse(words)
    script = tmp_path / "x.sbatch"
    script.write_text("")
    with pytest.raises(kind, match=words.split(":")[2].strip()[:20]):
        slurm.submit(str(script), {"PATH": stand_in.path})


def test_sbatch_does_not_hear_what_would_speak_against_the_script():
    kept = slurm.environment_for_sbatch({
        "HOME": "/h", "SLURM_CONF": "/c", "SLURM_JOB_ID": "3", "SLURM_NTASKS": "9", "SBATCH_TIMELIMIT": "1",
        "SBATCH_QOS": "q", "RANK": "0", "WORLD_SIZE": "8", "MASTER_ADDR": "n1",
        "DS_ACCELERATOR": "cpu"})
    assert kept == {"HOME": "/h", "SLURM_CONF": "/c", "SBATCH_QOS": "q"}
