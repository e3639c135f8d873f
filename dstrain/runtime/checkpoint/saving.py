"""A checkpoint written by all ranks, each its own ranges, under a temporary name, and published by one rename.

It needs nothing of the engine but a snapshot, so it may run beside the training, in another thread.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Callable, Iterable, Iterator

from dstrain.runtime.checkpoint import disk
from dstrain.runtime.checkpoint.fence import Fence
from dstrain.runtime.checkpoint.folder import SET_ASIDE, bring_back, making_name, point, step_name
from dstrain.runtime.checkpoint.manifest import (
    FORMAT, GUARD, MANIFEST, PIECE_BYTES, Piece, files_entry, guard_of, hashes, pieces_of, share_of)
from dstrain.runtime.checkpoint.snapshot import Snapshot
from dstrain.runtime.checkpoint.tensor_file import create, size_of, write_ranges
from dstrain.runtime.dist import Ranks


def write(folder: Path, snapshot: Snapshot, write_side_files: Callable[[Path], None], ranks: Ranks,
          say: Callable[[str], None] = print, look_up: Callable[[], None] = lambda: None,
          fence: Fence = Fence()) -> Path:
    """Publish folder/step_NNNNNNNN. All ranks call it together; the first adds files by `write_side_files`.

    `look_up` is called all along: what it raises ends the save, on all ranks. After a failure nothing is left of it.
    """
    final = folder / step_name(snapshot.step)
    making = folder / making_name(final.name, fence.start)
    try:
        return _write(making, final, snapshot, write_side_files, ranks, say, look_up, fence)
    except Exception:
        if ranks.first:  # the others wrote their last byte before the ranks agreed that it failed
            _leave_nothing(folder, say, fence)
        raise


def _write(making: Path, final: Path, snapshot: Snapshot, write_side_files: Callable[[Path], None], ranks: Ranks,
           say: Callable[[str], None], look_up: Callable[[], None], fence: Fence) -> Path:
    what, needs = f"save {final}", sum(map(size_of, snapshot.shapes.values()))
    pieces: list[Piece] = []
    with ranks.together(what), disk.in_words(what, final.parent, needs):
        if ranks.first:
            _begin(making, final, needs, snapshot, write_side_files, say, fence)
    with ranks.together(what), disk.in_words(what, final.parent, needs):
        for file in snapshot.shapes:
            write_ranges(making / file, ((part.name, part.start, part.values)
                                         for part in _each(snapshot.parts, look_up) if part.file == file))
    with ranks.together(what), disk.in_words(what, final.parent):
        if ranks.first:
            pieces = pieces_of(making)
    pieces = ranks.share(pieces)
    with ranks.together(what), disk.in_words(what, final.parent):
        own = share_of(pieces, ranks.rank, ranks.world)
        hashed = dict(zip(own, hashes(making, _each(own, look_up)), strict=True))
    hashed = {piece: digest for of_rank in ranks.gather(hashed) for piece, digest in of_rank.items()}
    with ranks.together(what), disk.in_words(what, final.parent, needs):
        look_up()
        if ranks.first:
            _publish(making, final, snapshot, {piece: hashed[piece] for piece in pieces}, say, fence)
    return final


def _begin(making: Path, final: Path, needs: int, snapshot: Snapshot, write_side_files: Callable[[Path], None],
           say: Callable[[str], None], fence: Fence) -> None:
    run_folder = final.parent.parent
    if not run_folder.is_dir():  # else a fresh one would take the place of one that was moved for a moment
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(run_folder))
    disk.make_folder(final.parent)
    bring_back(final.parent, say, fence.start)
    disk.need(needs, final.parent, f"save {final}")
    disk.make_folder(making)
    for file, shapes in snapshot.shapes.items():
        create(making / file, shapes)
    write_side_files(making)
    disk.write_file(making / "state.json", json.dumps(snapshot.state, indent=1).encode())


def _publish(making: Path, final: Path, snapshot: Snapshot, hashed: dict[Piece, str],
             say: Callable[[str], None], fence: Fence) -> None:
    """Everything is on the disk before the one rename, and the rename before anybody is told."""
    text = json.dumps({"format": FORMAT, "step": snapshot.step, "moments": snapshot.moments, "piece_bytes": PIECE_BYTES,
                       **snapshot.about, "files": files_entry(hashed)}, indent=1).encode()
    disk.write_file(making / MANIFEST, text)
    disk.write_file(making / GUARD, guard_of(text))
    disk.sync_tree(making)  # side files too, whoever wrote them
    disk.sync_folder(final.parent)
    fence.check()
    if final.exists():  # the same step once more: kept until its successor stands, whenever we are killed
        disk.rename(final, final.with_name(SET_ASIDE + final.name))
    disk.rename(making, final)
    disk.sync_folder(final.parent)
    bring_back(final.parent, say, fence.start)
    point(final.parent, "latest", final.name, fence)


def _leave_nothing(folder: Path, say: Callable[[str], None], fence: Fence) -> None:
    try:
        bring_back(folder, say, fence.start)
    except OSError as error:  # the error that ended the save is the one to be told
        say(f"{folder} could not be tidied: {error.strerror or error}; the next start does")


def _each(things: Iterable, look_up: Callable[[], None]) -> Iterator:
    for thing in things:
        look_up()
        yield thing
