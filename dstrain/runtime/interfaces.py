"""The network interfaces of this machine, and which of them the ranks talk through."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path

VARIABLES = {"cpu": "GLOO_SOCKET_IFNAME", "cuda": "NCCL_SOCKET_IFNAME"}
"""by a device's type: what tells the library that the ranks talk through which interface to take"""
_SIOCGIFADDR = 0x8915
_SYS = Path("/sys/class/net")


def interfaces() -> dict[str, dict]:
    """By name, of those that are up and have an IPv4 address: address, speed, and whether it is a piece of hardware."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            address = _address(asked, name)
            if address is None or _said(name, "operstate") == "down":
                continue
            speed = _said(name, "speed")
            found[name] = {"address": address, "mbit_per_s": int(speed) if speed.isdigit() and int(speed) else None,
                           "hardware": any((_SYS / name / part).exists() for part in ("device", "bonding"))}
    return found


def in_use(device: str, there: dict[str, dict]) -> str | None:
    """The interface that the ranks talk through; None where the library chooses by rules of its own.

    gloo takes what it is told, or else the interface with the address that the machine's name stands for.
    """
    told = os.environ.get(VARIABLES[device], "").lstrip("^=").split(",")[0].strip()
    if told:
        return told if told in there or device == "cpu" else _beginning_with(told, there)
    if device != "cpu":
        return None
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        return "lo"
    return next((name for name, about in there.items() if about["address"] == address), "lo")


def _beginning_with(prefix: str, there: dict[str, dict]) -> str | None:
    """NCCL takes the beginning of a name, too."""
    return next((name for name in there if name.startswith(prefix)), None)


def _address(asked: socket.socket, name: str) -> str | None:
    try:
        answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
    except OSError:  # it has none
        return None
    return socket.inet_ntoa(answer[20:24])


def _said(name: str, what: str) -> str:
    try:
        return (_SYS / name / what).read_text().strip()
    except OSError:  # such as the speed of one that has none
        return ""
