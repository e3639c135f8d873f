"""Where training stands in the data: plain JSON, exact after the last step that was trained on.

{"step": 7, "lane_count": 4, "files": [{"count": 1, "digest": "5f..."}],
 "lanes": {"0": [{"epoch": 0, ...one object per source}], "1": ...}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.data.lanes import Lane, Stream
from dstrain.data.one_pass import AnyCorpus
from dstrain.data.preparing.prepared import PreparedCorpus
from dstrain.data.reading.sources import Corpus

LARGEST = 2**53
"""no document, token or step has such a number"""
CHANGED = "Restore it, or start the run anew with --fresh"
_RESTORE = "restore the checkpoint's state.json, or go on from another checkpoint"


def place_after(step: int, lane_count: int, corpora: Sequence[Corpus | PreparedCorpus],
                lanes: Mapping[int, Lane]) -> dict[str, Any]:
    """One rank's part: the state of its lanes after a step."""
    return {"step": step, "lane_count": lane_count, "files": [corpus.fingerprint for corpus in corpora],
            "lanes": {str(number): lane.states() for number, lane in lanes.items()}}


def merge_places(places: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All ranks' parts as one, which any number of ranks can continue from."""
    first = places[0]
    for place in places:
        for name in ("step", "lane_count", "files"):
            if place[name] != first[name]:
                raise ValueError(f"the ranks' places differ in {name}: {first[name]} and {place[name]}")
    lanes = {name: states for place in places for name, states in place["lanes"].items()}
    if len(lanes) != sum(len(place["lanes"]) for place in places):
        raise ValueError("two ranks' places hold the same lane")
    return first | {"lanes": {name: lanes[name] for name in sorted(lanes, key=int)}}


def check_place(place: dict[str, Any], recipe: Recipe, corpora: Sequence[Corpus | PreparedCorpus],
                own_lanes: Sequence[int]) -> None:
    """Refuses to continue where the recipe or the files now mean another order of the data."""
    _check_form(place, own_lanes)
    if place["lane_count"] != recipe.data.lanes:
        raise UserError(f"data.lanes is {recipe.data.lanes}, but the checkpoint was written with "
                        f"{place['lane_count']}, which is another order of the data. {CHANGED}")
    check_files(place["files"], corpora)


def check_files(written: Sequence[dict[str, Any]], corpora: Sequence[AnyCorpus]) -> None:
    """Refuses other sources, or other files of a source, than those that a place was written with."""
    if len(written) != len(corpora):
        raise UserError(f"data.train has {len(corpora)} source(s), but the checkpoint was written with "
                        f"{len(written)}. {CHANGED}")
    for corpus, files in zip(corpora, written):
        if corpus.file_count != files["count"]:
            raise UserError(f"{corpus.name}: {corpus.file_count} file(s), but the checkpoint was written with "
                            f"{files['count']}, which is another order of the data. {CHANGED}")
        if corpus.fingerprint != files:
            raise UserError(f"{corpus.name}: the files have changed since the checkpoint was written, which is another "
                            f"order of the data. {CHANGED}")


@contextmanager
def no_place() -> Iterator[None]:
    """What a place lacks, or has too much of, as the user's error."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the place in the data, in state.json, is none ({type(error).__name__}: {str(error)[:200]}); "
                        f"{_RESTORE}") from None


def check_numbers(numbers: Sequence[Any]) -> None:
    """All numbers of a place count something."""
    odd = [number for number in numbers if type(number) is not int or not 0 <= number < LARGEST]
    if odd:
        raise UserError(f"the place in the data, in state.json, counts to {odd[0]!r:.60}, which nothing does; "
                        f"{_RESTORE}")


def _check_form(place: dict[str, Any], own_lanes: Sequence[int]) -> None:
    """A place comes from a file, which somebody may have written to."""
    numbers: list[Any] = []
    with no_place():
        numbers = [place["step"], place["lane_count"], *(files["count"] for files in place["files"])]
        for lane in own_lanes:
            if str(lane) not in place["lanes"]:
                raise ValueError(f"the place holds no lane {lane}: merge the places of all ranks first")
            for state in place["lanes"][str(lane)]:
                if set(state) != set(Stream.STATE):
                    raise ValueError(f"lane {lane} of the place has {sorted(state)}, not {sorted(Stream.STATE)}")
                if state["bad"] > state["seen"]:
                    raise ValueError(f"lane {lane}: {state['bad']!r:.60} malformed of {state['seen']!r:.60} documents")
                numbers += state.values()
            if len(place["lanes"][str(lane)]) != len(place["files"]):
                raise ValueError(f"lane {lane} has {len(place['lanes'][str(lane)])} states for "
                                 f"{len(place['files'])} source(s)")
    check_numbers(numbers)
