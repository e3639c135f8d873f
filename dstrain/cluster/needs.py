"""What a run reads before its first step, and whether it is there for nodes without a network: text, shards, tokenizer.

Found out with looks at the file system alone; what asks for a library of the hub or of tiktoken is handed in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dstrain.cluster.prepared_there import prepared_there
from dstrain.config.arc import PuzzleSource
from dstrain.config.errors import UserError
from dstrain.config.presets import GRID_TOKENIZER
from dstrain.config.schema import Data, Recipe, Source
from dstrain.config.source_files import files_of
from dstrain.config.translate import PairSource, PairTokenizers

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
TRUE = ("1", "ON", "YES", "TRUE")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Libraries:
    """Looks into caches that others keep."""

    hub_cache: Callable[[str, str | None, str], Path | None]
    """(dataset, revision, place in the recipe) -> its folder in the cache; None where it is not whole there"""
    missing_of_tiktoken: Callable[[str], dict[str, Path]]
    """an encoding's name -> the addresses that are not in the cache yet, with where they belong"""
    cache_of_tiktoken: Callable[[], Path]
    reaches_the_network: Callable[[], bool]


@dataclass(frozen=True)
class Needed:
    """A place that the nodes must see."""

    what: str
    path: Path
    remedy: str = "put it on a file system that all nodes share"
    is_cache: bool = False
    """what is not there is fetched, where there is a network"""


@dataclass(frozen=True)
class Needs:
    """What was found."""

    places: tuple[Needed, ...]
    notes: tuple[str, ...]
    may_fetch: Callable[[], bool]
    """asked only where it matters: it takes a moment"""


def is_offline(environment: Mapping[str, str]) -> bool:
    return any(environment.get(name, "").upper() in TRUE for name in OFFLINE)


def needs_of(recipe: Recipe, has_checkpoint: bool, environment: Mapping[str, str], libraries: Libraries) -> Needs:
    """A UserError for the first thing that is missing. A run with a checkpoint has its tokenizer in there."""
    places: list[Needed] = []
    notes: list[str] = []
    network = _Network(environment, libraries)
    if isinstance(recipe.data, Data) and recipe.data.prepared is not None:
        places.append(Needed("data.prepared", prepared_there(recipe)))
    else:
        for split in ("train", "valid"):
            for number, source in enumerate(getattr(recipe.data, split)):
                _source(source, f"data.{split}.{number}", network, libraries, places, notes)
        if not has_checkpoint:
            both = isinstance(recipe.tokenizer, PairTokenizers)
            for name in (recipe.tokenizer.source, recipe.tokenizer.target) if both else (recipe.tokenizer,):
                _tokenizer(name, network, libraries, places, notes)
    return Needs(tuple(places), tuple(dict.fromkeys(notes)), lambda: network.why_not() is None)


class _Network:
    def __init__(self, environment: Mapping[str, str], libraries: Libraries):
        self._environment, self._libraries = environment, libraries
        self._reached: bool | None = None

    def why_not(self) -> str | None:
        """None where the job may fetch at its start what is missing."""
        if is_offline(self._environment):
            return "offline mode is on (HF_HUB_OFFLINE or HF_DATASETS_OFFLINE)"
        if self._reached is None:
            self._reached = self._libraries.reaches_the_network()
        return None if self._reached else "no network is reached from here"


def _source(source: Source | PairSource | PuzzleSource, place: str, network: _Network, libraries: Libraries,
            places: list, notes: list) -> None:
    if source.hub is None:
        folders = dict.fromkeys(path.parent for path in files_of(source, place))
        places.extend(Needed(place, folder) for folder in folders)
    elif os.path.isdir(os.path.expanduser(source.hub)):
        places.append(Needed(place, Path(source.hub).expanduser()))
    else:
        if not _HUB_NAME.fullmatch(source.hub):
            raise UserError(f"{place}.hub: {source.hub!r} is neither a folder (looked in {os.getcwd()}) nor the name "
                            f"of a dataset on the hub, which is NAMESPACE/NAME, such as Salesforce/wikitext")
        _of_the_hub(source, place, network, libraries, places, notes)


def _of_the_hub(source: Source | PairSource, place: str, network: _Network, libraries: Libraries, places: list,
                notes: list) -> None:
    cached = libraries.hub_cache(source.hub, source.revision, place)
    if cached is not None:
        places.append(Needed(f"{place}, {source.hub},", cached, "let HF_HOME name a folder that all nodes share",
                             is_cache=True))
        return
    fetch = f"hf download {source.hub} --repo-type dataset" + (f" --revision {source.revision}" if source.revision
                                                               else "")
    missing = f"{place}.hub: {source.hub} is not whole in this machine's cache"
    shards = isinstance(source, Source)
    if (why := network.why_not()) is not None:
        raise UserError(f"{missing}, and {why}: with a network, run `{fetch}` with the HF_HOME that the nodes have"
                        + ", or dstrain prepare, and train with data.prepared" * shards)
    notes.append(f"{missing}: the job fetches it from the hub, for which the nodes need a way out; without one: "
                 f"`{fetch}`" + ", or dstrain prepare" * shards)


def _tokenizer(name: str, network: _Network, libraries: Libraries, places: list, notes: list) -> None:
    if "/" in name or os.sep in name:
        folder = Path(name).expanduser()
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"tokenizer: {folder} holds no saved tokenizer (no tokenizer.json); correct the path, or "
                            f"name a tokenizer such as gpt2 or bytes")
        places.append(Needed("tokenizer", folder))
    elif name not in ("bytes", GRID_TOKENIZER) and not name.startswith("bpe:"):
        missing = libraries.missing_of_tiktoken(name)
        if not missing:
            places.append(Needed(f"tokenizer {name}", libraries.cache_of_tiktoken(), "copy it to a folder that all "
                                 "nodes share, and let TIKTOKEN_CACHE_DIR name that", is_cache=True))
        elif (why := network.why_not()) is not None:
            files = "; ".join(f"{address} saved as {path.name}" for address, path in missing.items())
            raise UserError(f"tokenizer {name}: its files are not in {next(iter(missing.values())).parent}, and {why}: "
                            f"put into a folder that the nodes see and TIKTOKEN_CACHE_DIR names: {files}")
        else:
            notes.append(f"tokenizer {name} is not in this machine's cache: the job fetches it, for which the nodes "
                         f"need a way out; without one, fetch it here into a shared folder that TIKTOKEN_CACHE_DIR "
                         f"names")
