"""Which file system holds a path, and whether the nodes of a job see it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dstrain.cluster import file_systems, shared
from dstrain.cluster.file_systems import is_exported, place_of
from dstrain.cluster.shared import SeenByNodes
from dstrain.config.errors import UserError

MOUNTS = """22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /dev/shm rw - tmpfs tmpfs rw
24 22 0:6 / /home rw - nfs4 server:/export/home rw
25 22 8:2 / /home/local rw - xfs /dev/sdb1 rw
26 22 0:7 / /with\\040blank rw - lustre mds@tcp:/fs rw
27 22 0:8 / /homely rw - btrfs /dev/sdc rw
28 22 0:9 / /covered rw - ext4 /dev/sdd rw
29 22 0:10 / /covered rw - beegfs beegfs_nodev rw
"""


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS)
    monkeypatch.setattr(shared, "place_of", lambda wanted: place_of(wanted, path))
    monkeypatch.setattr(shared, "is_exported", lambda wanted: False)
    return path


@pytest.mark.parametrize("path, kind", [
    ("/var/x", "ext4"), ("/dev/shm/runs", "tmpfs"), ("/home/me/runs", "nfs4"), ("/home/local/runs", "xfs"),
    ("/home", "nfs4"), ("/homely/x", "btrfs"), ("/homeless", "ext4"), ("/with blank/x", "lustre"),
    ("/covered/x", "beegfs")])
def test_the_nearest_mount_holds_a_path(mounts, path, kind):
    assert place_of(Path(path), mounts).kind == kind


def test_this_machines_own_mounts_are_read():
    assert place_of(Path("/dev/shm")).is_of_one_machine  # wherever this runs
    assert place_of(Path("/proc/self")).kind == "proc"


def test_memory_is_refused_whoever_says_that_it_is_shared(mounts):
    with pytest.raises(UserError, match="run folder /dev/shm/r is on tmpfs .*the nodes do not see it.*run.dir"):
        SeenByNodes(["n1", "n2"], True).check("run folder", Path("/dev/shm/r"), "choose another with run.dir=...")


def test_a_local_disk_is_refused_where_the_nodes_are_others(mounts):
    with pytest.raises(UserError, match=r"on xfs \(a disk of this machine: .*other nodes \(n1, n2\).*--shared"):
        SeenByNodes(["n2", "n1", "n1"], False).check("run folder", Path("/home/local/r"), "choose another")


def test_a_local_disk_is_right_where_it_is_said_exported_or_all_there_is(mounts, monkeypatch):
    here = socket.gethostname().split(".")[0]
    assert "shared" in SeenByNodes(["n1"], True).check("run folder", Path("/home/local/r"), "")
    assert "only node" in SeenByNodes([here], False).check("run folder", Path("/home/local/r"), "")
    monkeypatch.setattr(shared, "is_exported", lambda wanted: True)
    assert "shared" in SeenByNodes(["n1"], False).check("run folder", Path("/home/local/r"), "")


def test_the_folder_for_temporary_files_is_refused_whoever_says_that_it_is_shared(mounts, tmp_path):
    with pytest.raises(UserError, match="on ext4 .*: each machine has a /tmp of its own; choose"):
        SeenByNodes(["n1"], True).check("run folder", Path("/tmp/runs"), "choose another")
    mounts.write_text(f"{MOUNTS}30 22 8:3 /x /tmp/x rw - ext4 /dev/sda1 rw\n"
                      "31 22 8:4 / /var/tmp rw - xfs /dev/sde rw\n")
    with pytest.raises(UserError, match="each machine has a /var/tmp of its own"):
        SeenByNodes(["n1"], True).check("run folder", Path("/var/tmp/runs"), "choose another")
    assert "shared" in SeenByNodes(["n1"], True).check("run folder", Path("/tmp/x/runs"), "choose another")


def test_a_network_file_system_is_right(mounts):
    seen = SeenByNodes(["n1"], False)
    assert seen.check("run folder", Path("/home/me/r"), "") == "on nfs4 (server:/export/home, mounted at /home)"
    assert seen.notes == []


def test_without_slurm_a_local_disk_is_a_doubt_said_once(mounts):
    seen = SeenByNodes(None, False)
    for name in ("a", "b"):
        seen.check("run folder", Path("/home/local") / name, "")
    seen.check("this repository", Path("/home/local/code"), "")
    (note,) = seen.notes
    assert "/dev/sdb1" in note and note.endswith(": run folder, this repository")


def test_what_an_nfs_server_hands_out_is_found(tmp_path):
    etab, exports = tmp_path / "etab", tmp_path / "exports"
    etab.write_text("/srv/home\t10.0.0.0/8(rw,sync)\n")
    exports.write_text('# /data is not\n"/srv/other" *(rw)\n')
    lists = (etab, tmp_path / "missing", exports)
    assert is_exported(Path("/srv/home/me"), lists) and is_exported(Path("/srv/other"), lists)
    assert not is_exported(Path("/srv/homes"), lists) and not is_exported(Path("/data/x"), lists)
    assert file_systems.EXPORTS[0].name == "etab"
