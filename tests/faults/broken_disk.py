"""A disk that breaks on demand, below Python: every file operation of a process counted, and one of them made to fail.

`broken_disk.c` is compiled and preloaded, so that all writers go through it alike: dstrain's, PyTorch's C++, a
tokenizer's library. A power cut is played afterwards, from the journal of what was done: what no fsync had put on the
disk is gone, once the contents only, once the names, too.
"""

from __future__ import annotations

import ctypes
import faulthandler
import hashlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(HERE)]

KINDS = ("mkdir", "create", "write", "truncate", "fsync", "rename", "unlink", "rmdir", "open", "read")
FAULTS = ("none", "killed before", "killed after", "no space", "I/O error", "half, then error", "half, said",
          "half, unsaid")
"""in the order of broken_disk.c"""
CUTS = ("power cut", "power cut, names too")
"""before the operation; contents that were not synced are gone, and so are, in the second, names"""
CHANGES = KINDS[:8]
OF_KIND = {
    **dict.fromkeys(CHANGES, ("killed before", "killed after", *CUTS, "I/O error")),
    "mkdir": ("killed before", "killed after", *CUTS, "no space", "I/O error"),
    "create": ("killed before", "killed after", *CUTS, "no space", "I/O error"),
    "truncate": ("killed before", "killed after", *CUTS, "no space", "I/O error"),
    "fsync": ("killed before", "killed after", *CUTS, "no space", "I/O error"),
    "rename": ("killed before", "killed after", *CUTS, "no space", "I/O error"),
    "write": ("killed before", "killed after", *CUTS, "no space", "I/O error", "half, then error", "half, said",
              "half, unsaid"),
    "open": ("I/O error",),
    "read": ("I/O error", "half, said")}
"""which faults each kind of operation can meet: removing needs no space, and only bytes come in halves"""
END = "after it returned"
"""the instant behind the last operation, when whoever saved has been told that it is saved: the power is cut there"""


def compiler() -> str | None:
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def with_broken_disk(arguments: list[str]) -> None:
    """Become a process of the same program that has the library preloaded; returns where it has it already."""
    if "broken_disk" in os.environ.get("LD_PRELOAD", ""):
        return
    library = _built()
    os.execve(sys.executable, [sys.executable, "-W", "ignore", *arguments],
              {**os.environ, "LD_PRELOAD": str(library), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1",
               "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"})


def arm(folder: Path, kind: str, number: int, fault: str, journal: Path, keep_in: Path) -> None:
    """Call `number` of `kind` below the folder meets the fault; number 0 only writes the journal."""
    keep_in.mkdir(parents=True)
    file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    fault = "killed before" if fault in CUTS else fault
    _library().broken_disk_arm(os.fsencode(folder.resolve()), os.fsencode(keep_in.resolve()), KINDS.index(kind),
                               ctypes.c_long(number), FAULTS.index(fault), file)


def disarm() -> None:
    _library().broken_disk_disarm()


class Done(NamedTuple):
    """A line of the journal: an operation that was done, or the one that was broken."""

    what: str
    kind: str
    path: str
    other: str
    """a rename's new name; "emptied" for a file that was there before it was created"""
    kept: str
    """the second name of what was replaced or removed"""


def read_journal(journal: Path) -> list[Done]:
    return [Done(*line.split("\t")) for line in journal.read_text().splitlines()] if journal.exists() else []


def cut_power(done: list[Done], names_too: bool) -> None:
    """Take from the disk what was never synced: contents become empty files; names, where asked for, are undone.

    The strictest reading of POSIX: an fsync of a file keeps its contents, an fsync of its folder keeps its name.
    """
    unsynced: set[str] = set()
    pending: list[list] = []  # [operation, its folder's path by now, whether it is still only in memory]
    for one in done:
        if one.what != "done":
            continue
        parent = os.path.dirname(one.other if one.kind == "rename" else one.path)
        if one.kind in ("create", "write", "truncate"):
            unsynced.add(one.path)
        elif one.kind == "fsync":
            unsynced.discard(one.path)
            for entry in pending:
                entry[2] = entry[2] and entry[1] != one.path
        elif one.kind == "unlink":
            unsynced.discard(one.path)
        elif one.kind == "rename":
            unsynced = {_moved(path, one) for path in unsynced}
            for entry in pending:
                entry[1] = _moved(entry[1], one)
        if one.kind in ("mkdir", "rename", "unlink", "rmdir") or one.kind == "create" and one.other != "emptied":
            pending.append([one, parent, True])
    for path in unsynced:
        if os.path.isfile(path):
            os.truncate(path, 0)
    stood: list[Done] = []  # renames that are not undone, latest first
    for one, _, only_in_memory in reversed(pending) if names_too else ():
        if only_in_memory:
            _undo(one, stood)
        elif one.kind == "rename":
            stood.append(one)


def _undo(one: Done, stood: list[Done]) -> None:
    def now(path: str) -> str:
        for rename in reversed(stood):
            path = _moved(path, rename)
        return path

    path = now(one.path)
    if one.kind == "rename":
        if os.path.exists(now(one.other)):
            os.rename(now(one.other), path)
        if one.kept:
            os.link(one.kept, now(one.other))
    elif one.kind == "unlink" and one.kept and os.path.isdir(os.path.dirname(path)):
        os.link(one.kept, path)
    elif one.kind == "rmdir":
        os.makedirs(path, exist_ok=True)
    elif os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.unlink(path)


def _moved(path: str, rename: Done) -> str:
    if path == rename.path or path.startswith(rename.path + "/"):
        return rename.other + path[len(rename.path):]
    return path


class Forked(NamedTuple):
    """How a forked process ended: its result, or "killed", "hung", or its traceback."""

    result: Any
    how: str
    printed: str


def in_fork(function: Callable[[], Any], place: Path, timeout_s: float = 60.0) -> Forked:
    """The function's result from a process of its own, a clone of this one in mid-training. Clones are not cloned."""
    assert not hasattr(_live, "is_clone"), "a clone must not be cloned again"
    answer, out = place / "answer", place / "printed"
    answer.unlink(missing_ok=True)
    sys.stdout.flush(), sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _live(function, answer, out)
    deadline = time.monotonic() + timeout_s
    pause_s = 0.001
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGABRT)  # faulthandler prints where it stands
            os.waitpid(child, 0)
            return Forked(None, "hung", _text(out))
        time.sleep(pause_s)
        pause_s = min(0.02, 1.5 * pause_s)
    if answer.exists():
        result, trouble = pickle.loads(answer.read_bytes())
        return Forked(result, trouble or "well", _text(out))
    code = os.waitstatus_to_exitcode(status)
    return Forked(None, "killed" if code == 9 else f"crashed with {code}", _text(out))


def _live(function: Callable[[], Any], answer: Path, out: Path) -> None:
    try:
        _live.is_clone = True
        file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1), os.dup2(file, 2)
        faulthandler.enable(file)
        told = (function(), "")
    except BaseException:
        import traceback
        told = (None, traceback.format_exc())
    try:
        disarm()
        beside = answer.with_name(answer.name + ".new")
        beside.write_bytes(pickle.dumps(told))
        os.rename(beside, answer)
        sys.stdout.flush()
    finally:
        os._exit(0)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _built() -> Path:
    source = HERE / "broken_disk.c"
    key = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"broken_disk-{os.getuid()}-{key}.so"
    if not library.exists():
        beside = library.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler() or "cc", "-shared", "-fPIC", "-O1", "-o", str(beside), str(source), "-ldl",
                        "-pthread"], check=True)
        os.rename(beside, library)
    return library


def _library() -> ctypes.CDLL:
    if not hasattr(_library, "loaded"):
        _library.loaded = ctypes.CDLL(next(path for path in os.environ["LD_PRELOAD"].split(":")
                                           if "broken_disk" in path))
    return _library.loaded
