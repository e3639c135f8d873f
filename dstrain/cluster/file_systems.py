"""What file system holds a path, and whether other machines can see it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

MEMORY = ("tmpfs", "ramfs", "devtmpfs")
CONTAINER = ("overlay", "aufs", "squashfs", "rootfs")
LOCAL_DISK = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "vfat", "exfat",
              "ntfs", "ntfs3", "fuseblk")
EXPORTS = (Path("/var/lib/nfs/etab"), Path("/etc/exports"))
"""what this machine's NFS server hands out"""


@dataclass(frozen=True)
class Place:
    """Where a path lies."""

    kind: str
    """such as nfs4 or ext4"""
    device: str
    mount_point: str

    @property
    def is_memory(self) -> bool:
        return self.kind in MEMORY

    @property
    def is_of_one_machine(self) -> bool:
        return self.kind in (*MEMORY, *CONTAINER, *LOCAL_DISK)

    def __str__(self) -> str:
        what = ("this machine's memory" if self.is_memory else "this container's own" if self.kind in CONTAINER else
                f"a disk of this machine: {self.device}" if self.is_of_one_machine else self.device)
        return f"{self.kind} ({what}, mounted at {self.mount_point})"


def place_of(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> Place | None:
    """Of a path that need not be there yet. None where the system does not say."""
    real = os.path.realpath(path)
    try:  # a folder that is mounted when somebody looks is mounted now
        os.stat(_there(real))
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    best: Place | None = None
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = _plain(fields.split(" ")[4]) if fields.count(" ") >= 4 else ""
        kind, _, rest = rest.partition(" ")
        if point and is_within(real, point) and (best is None or len(point) >= len(best.mount_point)):
            best = Place(kind, _plain(rest.split(" ")[0]), point)  # of two at one point, the later one covers
    return best


def is_exported(path: Path, lists: tuple[Path, ...] = EXPORTS) -> bool:
    """Whether this machine is the NFS server that others have the path from."""
    real = os.path.realpath(path)
    for listed in lists:
        try:
            lines = listed.read_text(errors="replace").splitlines()
        except OSError:
            continue
        folders = (line.split()[0].strip('"') for line in lines if line.strip() and not line.startswith("#"))
        if any(folder.startswith("/") and is_within(real, folder) for folder in folders):
            return True
    return False


def _there(path: str) -> str:
    while not os.path.exists(path) and path != "/":
        path = os.path.dirname(path)
    return path


def is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _plain(text: str) -> str:
    """Blanks and the like stand there as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
