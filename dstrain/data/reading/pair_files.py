"""The files of a source of pairs: parallel text, .tsv and .jsonl; what stands in each, line by line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

from dstrain.config.errors import UserError
from dstrain.config.source_files import kind_of, pair_files
from dstrain.config.translate import PairSource
from dstrain.data.reading.files import fingerprint_of, sound, unpacked
from dstrain.data.reading.jsonlines import numbered_lines
from dstrain.data.reading.pair_text import BYTE_ORDER_MARK, Line, RawPair, TwoSides, without_line_end
from dstrain.data.reading.unpacked import text_bytes_in

COUNTED_AT_ONCE_BYTES = 2**25
"""of two parallel files: up to here their lines are counted when they are opened, else while they are read"""


class PairFiles:
    """A file is one .tsv or .jsonl, or two of parallel text: line n of the one and line n of the other are a pair."""

    def __init__(self, source: PairSource, place: str, languages: tuple[str, str]):
        self.files = pair_files(source, place)
        self.file_count = len(self.files)
        self._place, self._columns, self._languages = place, source.columns, languages
        for paths in self.files:
            if len(paths) == 2:
                self._count_if_small(*paths)

    def digest(self) -> str:
        return fingerprint_of([path for paths in self.files for path in paths])

    def numbered(self, file_number: int, first: int) -> Iterator[tuple[int, RawPair]]:
        """Numbered as lines; blank ones hold nothing."""
        paths = self.files[file_number]
        if len(paths) == 2:
            yield from self._parallel(*paths)
            return
        keys = self._columns if kind_of(paths[0]) == ".tsv" else self._languages
        with unpacked(paths[0]) as stream:
            for number, line in numbered_lines(stream):
                yield number, Line(line, keys)

    def target_bytes(self) -> int | None:
        """None where a line holds both sides: nobody knows which part of it is the target."""
        if any(len(paths) == 1 for paths in self.files):
            return None
        sizes = []
        for _, target in self.files:
            with sound(target):
                sizes.append(text_bytes_in(target, field=""))
        return None if None in sizes else sum(sizes)

    def where(self, file_number: int, number: int) -> str:
        return f"{' and '.join(map(str, self.files[file_number]))}, line {number + 1}"

    def _count_if_small(self, source: Path, target: Path) -> None:
        with sound(source), sound(target):
            looks = [path.stat() for path in (source, target)]
        if sum(look.st_size for look in looks) <= COUNTED_AT_ONCE_BYTES:
            counts = [_line_count(path, look.st_size, look.st_mtime_ns) for path, look in zip((source, target), looks)]
            self._refuse_different(source, target, counts)

    def _refuse_different(self, source: Path, target: Path, counts: Sequence[int]) -> None:
        if counts[0] != counts[1]:
            raise UserError(f"{self._place}: {source} has {counts[0]:,} line(s), and {target} has {counts[1]:,}, but "
                            f"line n of the one and line n of the other are a pair; give files that belong together")

    def _parallel(self, source: Path, target: Path) -> Iterator[tuple[int, RawPair]]:
        """An error when one file ends before the other."""
        with closing(_lines(source)) as sources, closing(_lines(target)) as targets:
            for number, lines in enumerate(zip_longest(sources, targets)):
                if None in lines:
                    # `zip_longest` has taken one line more of the longer one; both are counted to their ends.
                    counts = [number if line is None else number + 1 + sum(1 for _ in rest)
                              for line, rest in zip(lines, (sources, targets))]
                    self._refuse_different(source, target, counts)
                if lines[0].strip() or lines[1].strip():
                    yield number, TwoSides(*lines)


def _lines(path: Path) -> Iterator[bytes]:
    """Without their ends, the first without a byte order mark; what is wrong with the file is said with its name."""
    with unpacked(path) as stream:
        for number, line in enumerate(stream):
            yield without_line_end(line.removeprefix(BYTE_ORDER_MARK) if number == 0 else line)


@lru_cache(maxsize=1024)
def _line_count(path: Path, size: int, changed_ns: int) -> int:
    """Once, as long as the file stays as it was: a source is opened for each validation."""
    with unpacked(path) as stream:
        return sum(1 for _ in stream)
