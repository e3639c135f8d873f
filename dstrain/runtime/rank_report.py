"""What a rank says of itself before the first step: where it is, on what, with which versions, with how much disk."""

from __future__ import annotations

import functools
import os
import platform
import socket
from importlib import metadata
from pathlib import Path

import torch

from dstrain import __version__
from dstrain.config.code_hash import code_hash
from dstrain.guard.machine import boot_id
from dstrain.runtime.dist import Ranks
from dstrain.runtime.interfaces import in_use, interfaces


def report(ranks: Ranks, run_folder: Path) -> dict:
    """As plain JSON. Without other ranks nothing is asked that only a comparison would need."""
    free_bytes, disk_bytes = _disk(run_folder)
    said = {"rank": ranks.rank, "host": host_name(), "boot": boot_id(), "pid": os.getpid(),
            "device": device_name(ranks.device), "driver": _driver() if ranks.device.type == "cuda" else None,
            **versions(), "free_bytes": free_bytes, "disk_bytes": disk_bytes}
    if ranks.world == 1:
        return said
    return said | {"code": code_hash(), "interfaces": (there := interfaces()),
                   "interface": in_use(ranks.device.type, there)}


def host_name() -> str:
    return socket.gethostname()


def versions() -> dict[str, str | None]:
    nccl = torch.cuda.nccl.version() if torch.cuda.is_available() else None
    return {"python": platform.python_version(), "torch": torch.__version__, "deepspeed": version_of("deepspeed"),
            "nccl": None if nccl is None else ".".join(map(str, nccl)), "cuda": torch.version.cuda,
            "dstrain": __version__}


def version_of(package: str) -> str | None:
    """None for one that is not installed by pip: a run does not end over its own description."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        return f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
    return f"{device.type}, {_processor()}"


@functools.cache
def _processor() -> str:
    for line in _beginning(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@functools.cache
def _driver() -> str | None:
    """Of NVIDIA's kernel module; None where it does not say."""
    words = _beginning(Path("/proc/driver/nvidia/version")).partition("Kernel Module")[2].split()
    return next((word for word in words if word[0].isdigit()), None)


def _disk(folder: Path) -> tuple[int | None, int | None]:
    """Bytes that are free, and all, of the file system in which the folder is, or will be made."""
    there = next((place for place in (folder.absolute(), *folder.absolute().parents) if _exists(place)), None)
    if there is None:
        return None, None
    try:
        space = os.statvfs(there)
    except OSError:
        return None, None
    return (space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize) if space.f_blocks else (None, None)


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:  # such as a name that is too long: said when the folder is opened
        return False


def _beginning(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(4096).decode(errors="replace")
    except OSError:
        return ""
