"""A checkpoint written by all ranks, each its own ranges, under a temporary name, and published by one rename."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Callable, Iterator

from dstrain.config.errors import UserError
from dstrain.runtime.checkpoint.disk import sync_folder, write_synced
from dstrain.runtime.checkpoint.folder import point, step_name
from dstrain.runtime.checkpoint.manifest import FORMAT, WEIGHTS_FILE, hashes, moment_file
from dstrain.runtime.checkpoint.tensor_file import create, write_ranges
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine


def save(folder: Path, engine: Engine, state: dict, write_side_files: Callable[[Path], None], ranks: Ranks) -> Path:
    """Publish folder/step_NNNNNNNN.

    `state` is plain JSON with "step"; the first rank adds files by `write_side_files`.
    """
    final = folder / step_name(state["step"])
    making = folder / f".making_{final.name}"
    state = {"format": FORMAT, **state, "optimizer_step": engine.optimizer_step(), "loss_scale": engine.loss_scale()}
    moments = engine.moment_shapes()

    def begin() -> None:
        for left_behind in folder.glob(".making_*"):  # of a save that was killed
            shutil.rmtree(left_behind)
        making.mkdir(parents=True)
        create(making / WEIGHTS_FILE, engine.shapes())
        for key, shapes in moments.items():
            create(making / moment_file(key), shapes)
        write_side_files(making)
        write_synced(making / "state.json", json.dumps(state, indent=1))

    def write_own() -> None:
        own = list(engine.own_fragments())
        write_ranges(making / WEIGHTS_FILE, ((f.name, f.start, f.weight) for f in own))
        for key in moments:
            write_ranges(making / moment_file(key),
                         ((f.name, f.start, f.moments[key]) for f in own if key in f.moments))

    def publish() -> None:
        manifest = {"format": FORMAT, "moments": list(moments), "files": hashes(making)}
        write_synced(making / "manifest.json", json.dumps(manifest, indent=1))
        sync_folder(making)
        replaced = folder / f".making_instead_of_{final.name}"
        if final.exists():  # a damaged one that was passed over, or the same once more
            final.rename(replaced)
        making.rename(final)
        sync_folder(folder)
        shutil.rmtree(replaced, ignore_errors=True)
        point(folder, "latest", final.name)

    for act, by_all in ((begin, False), (write_own, True), (publish, False)):
        with ranks.together(f"saving {final}"), _with_remedy():
            if by_all or ranks.first:
                act()
    return final


@contextlib.contextmanager
def _with_remedy() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {error.filename or 'the checkpoint'}: {error.strerror}; "
                        "make room or choose another run.dir, then run the same command again: "
                        "it goes on from the last committed checkpoint") from error
