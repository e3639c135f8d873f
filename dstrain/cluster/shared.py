"""Whether the nodes of a job see what it reads and writes: the run folder, the code, the data."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from dstrain.cluster.file_systems import Place, is_exported, is_within, place_of
from dstrain.config.errors import UserError


TEMPORARY = ("/tmp", "/var/tmp")


class SeenByNodes:
    """`node_names`: of the nodes where the job may run; None: there is no Slurm to ask."""

    def __init__(self, node_names: Iterable[str] | None, said_to_be_shared: bool):
        here = socket.gethostname().split(".")[0]
        self._others = None if node_names is None else sorted(set(node_names) - {here})
        self._said = said_to_be_shared
        self._in_doubt: dict[str, list[str]] = {}

    def check(self, what: str, path: Path, remedy: str) -> str:
        """In words where it lies; a UserError where the nodes cannot see that."""
        place = place_of(path)
        if place is None or not place.is_of_one_machine:
            return f"on {place}" if place else "on a file system that the system does not name"
        if place.is_memory:
            raise UserError(f"{what} {path} is on {place}: the nodes do not see it, and it does not outlive this "
                            f"machine; {remedy}")
        if self._others != [] and (temporary := _of_temporary_files(path, place)):
            raise UserError(f"{what} {path} is on {place}: each machine has a {temporary} of its own; {remedy}")
        if self._others == []:
            return f"on {place}, and this machine is the only node"
        if self._said or is_exported(path):
            return f"on {place}, shared with the nodes"
        if self._others is None:
            whats = self._in_doubt.setdefault(str(place), [])
            whats += [] if what in whats else [what]
            return f"on {place}"
        names = ", ".join(self._others[:3]) + (", ..." if len(self._others) > 3 else "")
        raise UserError(f"{what} {path} is on {place}, which other nodes ({names}) do not see; {remedy}, or say "
                        f"--shared if they see it all the same (this machine serves it to them)")

    @property
    def notes(self) -> list[str]:
        return [f"on {place}, which nodes that are other machines do not see: {', '.join(whats)}"
                for place, whats in self._in_doubt.items()]


def _of_temporary_files(path: Path, place: Place) -> str | None:
    """The machine's own folder that it lies in, unless something else is mounted below that."""
    real = os.path.realpath(path)
    return next((folder for folder in TEMPORARY
                 if is_within(real, folder) and (not is_within(place.mount_point, folder)
                                                 or place.mount_point == folder)), None)
