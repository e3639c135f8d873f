"""Where training stands in windows of pairs or puzzles: plain JSON, the same on all ranks, exact after the last step.

{"step": 7, "window": 0, "batch": 7, "window_pairs": 8192, "files": [{"count": 1, "digest": "5f..."}],
 "sources": [{"epoch": 0, ...}, ...]}

`window` is filled from the sources' states, which are those of its start; `batch` is the next one in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.data.place import CHANGED, check_files, check_numbers, no_place


class Corpus(Protocol):
    """A source, of which there is a state in each place."""

    name: str
    file_count: int

    @property
    def fingerprint(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class WindowPlace:
    step: int
    window: int
    batch: int
    window_pairs: int
    files: list[dict]
    sources: list[dict]

    @staticmethod
    def of(place: dict[str, Any] | None, corpora: Sequence[Corpus], recipe: Recipe,
           state: Sequence[str]) -> WindowPlace:
        """The place, checked before; None: the beginning. `state`: what counts a source's rows, by name."""
        if place is not None:
            return WindowPlace(**place)
        return WindowPlace(0, 0, 0, recipe.batch.window, [corpus.fingerprint for corpus in corpora],
                         [dict.fromkeys(state, 0) for _ in corpora])

    def next_batch(self) -> WindowPlace:
        return replace(self, step=self.step + 1, batch=self.batch + 1)

    def next_window(self, sources: list[dict]) -> WindowPlace:
        return replace(self, step=self.step + 1, window=self.window + 1, batch=0, sources=sources)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def merge_window_places(places: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All ranks stand at the same place."""
    for place in places[1:]:
        if place != places[0]:
            name = next((name for name in places[0] if place.get(name) != places[0][name]), "form")
            raise ValueError(f"the ranks' places differ in {name}: {places[0].get(name)} and {place.get(name)}")
    return places[0]


def check_window_place(place: dict[str, Any], recipe: Recipe, corpora: Sequence[Corpus],
                       state: Sequence[str]) -> None:
    """Refuses to continue where the recipe or the files now mean another order of the data."""
    _check_form(place, state)
    if place["window_pairs"] != recipe.batch.window:
        raise UserError(f"batch.window is {recipe.batch.window}, but the checkpoint was written with "
                        f"{place['window_pairs']}, which is another order of the data. {CHANGED}")
    check_files(place["files"], corpora)


def _check_form(place: dict[str, Any], counted: Sequence[str]) -> None:
    """A place comes from a file, which somebody may have written to."""
    names = ("step", "window", "batch", "window_pairs", "files", "sources")
    numbers: list[Any] = []
    with no_place():
        if sorted(place) != sorted(names):
            raise ValueError(f"it has {sorted(place)}, not {sorted(names)}")
        numbers = [*(place[name] for name in names[:4]), *(files["count"] for files in place["files"])]
        for state in place["sources"]:
            if set(state) != set(counted):
                raise ValueError(f"a source has {sorted(state)}, not {sorted(counted)}")
            numbers += state.values()
            if state.get("bad", 0) > state.get("seen", 0):
                raise ValueError(f"{state['bad']!r:.60} malformed of {state['seen']!r:.60} pairs")
        if len(place["sources"]) != len(place["files"]):
            raise ValueError(f"{len(place['sources'])} states for {len(place['files'])} source(s)")
    check_numbers(numbers)
