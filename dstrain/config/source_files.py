"""Which files on this machine a source names. No reader is needed for it: a login node asks, too."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from dstrain.config.arc import PuzzleSource
from dstrain.config.errors import UserError
from dstrain.config.schema import Source
from dstrain.config.source_rules import ENDINGS, PACKED, READABLE
from dstrain.config.translate import PairSource

CHALLENGES, SOLUTIONS = "_challenges.json", "_solutions.json"
"""how ARC's files end that hold many tasks, and beside them what their tests expect"""


def files_of(source: Source | PairSource | PuzzleSource, place: str) -> list[Path]:
    """All files of a source that is not on the hub; none where it is embedded."""
    if source.embedded is not None:
        return []
    if isinstance(source, PairSource):
        return [path for pair in pair_files(source, place) for path in pair]
    if isinstance(source, PuzzleSource):
        return [path for paths in puzzle_files(source, place) for path in paths]
    return files_named(source.path, place)


def files_named(pattern: str, place: str) -> list[Path]:
    """The files of `path`, in the order of their names."""
    files = _matching(pattern, f"{place}.path", "*.jsonl")
    for path in files:
        if kind_of(path) not in ENDINGS or kind_of(path) == ".parquet" and packing_of(path):
            raise UserError(f"{place}.path: {path} is none of {READABLE}; rename it or narrow the pattern")
    return files


def pair_files(source: PairSource, place: str) -> list[tuple[Path, ...]]:
    """The files of `path`, each alone, or those of `source_path` each with its partner of `target_path`."""
    if source.path is not None:
        files = _matching(source.path, f"{place}.path", "*.tsv")
        for path in files:
            if kind_of(path) not in (".tsv", ".jsonl"):
                raise UserError(f"{place}.path: {path} is neither .tsv nor .jsonl (plain, .gz or .zst); rename it or "
                                f"narrow the pattern")
        return [(path,) for path in files]
    sources, targets = (_matching(getattr(source, key), f"{place}.{key}", "*.txt")
                        for key in ("source_path", "target_path"))
    if len(sources) != len(targets):
        raise UserError(f"{place}: source_path {source.source_path!r} names {len(sources)} file(s), but target_path "
                        f"{source.target_path!r} names {len(targets)}; parallel text has a target for each source")
    return list(zip(sources, targets))


def puzzle_files(source: PuzzleSource, place: str) -> list[tuple[Path, ...]]:
    """The files of `path`, each alone or, of X_challenges.json, with X_solutions.json that lies beside it."""
    files = _matching(source.path, f"{place}.path", "*.json")
    for path in files:
        if path.suffix.lower() != ".json":
            raise UserError(f"{place}.path: {path} does not end in .json; rename it or narrow the pattern")
    solutions_of = {path: path.with_name(path.name[:-len(CHALLENGES)] + SOLUTIONS) for path in files
                    if path.name.endswith(CHALLENGES)}
    for path in files:
        if path.name.endswith(SOLUTIONS) and path not in solutions_of.values():
            raise UserError(f"{place}.path: {path} holds solutions alone; name the file of their tasks, "
                            f"{path.name[:-len(SOLUTIONS)]}{CHALLENGES}, and it is found beside that")
    tasks = [path for path in files if path not in solutions_of.values()]
    return [(path, beside) if (beside := solutions_of.get(path)) is not None and beside.is_file() else (path,)
            for path in tasks]


def _matching(pattern: str, key: str, example: str) -> list[Path]:
    expanded = os.path.expanduser(pattern)
    if os.path.isdir(expanded):
        raise UserError(f"{key}: {pattern!r} is a folder; say which of its files to read, for example "
                        f"{os.path.join(pattern, example)} or, with those in folders below, "
                        f"{os.path.join(pattern, '**', example)}")
    named = [expanded] if os.path.exists(expanded) else glob.glob(expanded, recursive=True)
    # A set, because glob names a file several times where a pattern has several **.
    files = sorted({Path(name) for name in named if os.path.isfile(name)}, key=lambda path: path.parts)
    if not files:
        raise UserError(f"{key}: {pattern!r} matches no file (looked in {os.getcwd()}); "
                        f"correct the path or run from the folder that it is relative to")
    return files


def kind_of(path: Path) -> str:
    """.txt, .jsonl, .parquet or whatever it ends in: in small letters, and below what it is packed with."""
    return (path.with_suffix("") if packing_of(path) else path).suffix.lower()


def packing_of(path: Path) -> str:
    """.gz, .zst, or nothing."""
    return path.suffix.lower() if path.suffix.lower() in PACKED else ""
