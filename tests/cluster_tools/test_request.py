"""The options of `dstrain submit`, each on its own."""

from __future__ import annotations

from argparse import Namespace

import pytest

from dstrain.cluster.request import request_of
from dstrain.config.errors import UserError

SILENT = {"nodes": "1", "gpus": "8", "ranks_per_node": None, "cpus": None, "memory": None, "time": None,
          "partition": None, "account": None, "launcher": "deepspeed", "sweep": None, "chain": "1",
          "signal_before": "120"}


def asked(environment=None, **options):
    return request_of(Namespace(**{**SILENT, **options}), environment or {})


def test_ranks_are_gpus_or_what_is_said_for_the_cpu():
    assert asked().ranks_per_node == 8
    assert asked(gpus="0").ranks_per_node == 1
    assert asked(gpus="0", ranks_per_node="4", nodes="2-3").worlds == [8, 12]


def test_sbatchs_own_variables_count_where_the_command_line_is_silent():
    environment = {"SBATCH_PARTITION": "gpu", "SBATCH_ACCOUNT": "mine", "SBATCH_TIMELIMIT": "60"}
    request = asked(environment)
    assert (request.partition, request.account, request.time_s) == ("gpu", "mine", 3600)
    assert asked(environment, partition="other").partition == "other"


@pytest.mark.parametrize("memory, mib", [("64G", 65536), ("512", 512), ("2T", 2 * 1024**2), ("2048K", 2)])
def test_memory_is_read_as_slurm_reads_it(memory, mib):
    assert asked(memory=memory).memory_mib == mib


@pytest.mark.parametrize("options, said", [
    ({"nodes": "0"}, "--nodes '0'"), ({"nodes": "3-2"}, "--nodes 3-2: 2 is less"), ({"nodes": "two"}, "--nodes 'two'"),
    ({"nodes": "1,2"}, "--nodes '1,2'"), ({"gpus": "-1"}, "--gpus '-1'"), ({"gpus": "a100:2"}, "--gpus 'a100:2'"),
    ({"ranks_per_node": "2"}, "with GPUs there is one rank a GPU"), ({"gpus": "0", "ranks_per_node": "0"}, "'0'"),
    ({"cpus": "4"}, "fewer cores a node than its 8 ranks"), ({"memory": "64GiB"}, "--memory '64GiB'"),
    ({"time": "12h"}, "--time '12h'"), ({"time": "0"}, "--time '0'"), ({"time": "UNLIMITED"}, "not a time with an end"),
    ({"partition": "a b"}, "--partition 'a b'"), ({"account": "x\ny"}, "--account"), ({"chain": "0"}, "--chain '0'"),
    ({"signal_before": "0"}, "--signal-before '0'"),
    ({"chain": "2", "sweep": "optim.lr=1,2"}, "leave one of the two out")])
def test_a_wrong_option_is_said_in_one_line(options, said):
    with pytest.raises(UserError, match="^--") as raised:
        asked(**options)
    assert said in str(raised.value) and "\n" not in str(raised.value)
