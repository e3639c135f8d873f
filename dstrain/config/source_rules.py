"""Checks of one source of a recipe: whether every key that is set takes effect on what it names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePath

from dstrain.config.errors import UserError
from dstrain.config.hints import shown
from dstrain.config.schema import Source
from dstrain.config.translate import PairSource

PACKED = (".gz", ".zst")
ENDINGS = (".txt", ".jsonl", ".parquet")
READABLE = ".txt and .jsonl (each plain, .gz or .zst) and .parquet"
HUB_KEYS = {"config": None, "split": "train", "revision": None}
"""and what they are when nobody sets them"""

PlaceOf = Callable[[str], str]


def check_source(source: Source, name: str, place_of: PlaceOf) -> None:
    """Raises UserError for the first rule that is broken; `place_of("path")` says where that key stands."""
    kind = _kind(source, name, place_of)
    if kind != "hub":
        refuse_hub_keys(source, name, place_of)
    if kind != "embedded" and source.part != "all":
        remedy = "set split" if kind == "hub" else "give the files of each part as a path of their own"
        raise UserError(f"{place_of('part')}: {name}.part is {shown(source.part)}, but only an embedded corpus has "
                        f"parts; remove it, and {remedy}")
    if kind not in ("txt", "any") and source.documents != "file":
        raise UserError(f"{place_of('documents')}: {name}.documents is {shown(source.documents)}, but only a .txt file "
                        f"is cut into documents; remove it")
    if kind not in ("jsonl", "parquet", "hub", "any") and source.text_field != "text":
        raise UserError(f"{place_of('text_field')}: {name}.text_field is {shown(source.text_field)}, but only .jsonl "
                        f"has fields, and parquet and the hub columns; remove it")
    if source.starts is not None:
        _check_starts(source, kind, name, place_of("starts"))


def refuse_hub_keys(source: Source | PairSource, name: str, place_of: PlaceOf) -> None:
    """Of a source that is no dataset of the hub."""
    for key, default in HUB_KEYS.items():
        value = getattr(source, key)
        if value != default:
            raise UserError(f"{place_of(key)}: {name}.{key} is {shown(value)}, but only a dataset of the hub has one; "
                            f"remove it, or name the dataset as hub")


def _kind(source: Source, name: str, place_of: PlaceOf) -> str:
    """hub, embedded, txt, jsonl, parquet; `any` for a pattern that leaves the ending open."""
    given = {key: value for key in ("path", "hub", "embedded") if (value := getattr(source, key)) is not None}
    if not given:
        raise UserError(f"{place_of('path')}: {name} has neither path nor hub nor embedded; set one of them")
    if len(given) > 1:
        listed = " and ".join(f"{key} {shown(value)}" for key, value in given.items())
        raise UserError(f"{place_of(list(given)[-1])}: {name} has {listed}; keep one of them (the others: null)")
    if source.hub is not None and not source.hub.strip():
        raise UserError(f"{place_of('hub')}: {name}.hub is {shown(source.hub)}, which names nothing; write "
                        f"NAMESPACE/NAME, such as Salesforce/wikitext")
    return "hub" if source.hub is not None else "embedded" if source.embedded is not None else _kind_of_path(
        source.path, name, place_of("path"))


def _kind_of_path(path: str, name: str, place: str) -> str:
    pure = PurePath(path.lower())
    packed = pure.suffix in PACKED
    ending = pure.with_suffix("").suffix if packed else pure.suffix
    if ending in ENDINGS and not (packed and ending == ".parquet"):
        return ending[1:]
    if any(sign in ("".join(pure.suffixes[-2:]) or pure.name) for sign in "*?["):
        return "any"
    remedy = "convert or rename the file" if pure.suffix else (
        f"if it is a folder, say which of its files, for example {shown(path.rstrip('/') + '/*.jsonl')}")
    raise UserError(f"{place}: {name}.path is {shown(path)}, which is none of {READABLE}; {remedy}")


def _check_starts(source: Source, kind: str, name: str, place: str) -> None:
    if kind == "embedded":
        raise UserError(f"{place}: {name}.starts is {shown(source.starts)}, but a file of the embedded corpus is one "
                        f"document; remove it")
    if source.documents != "file":
        raise UserError(f"{place}: {name} has both starts {shown(source.starts)} and documents "
                        f"{shown(source.documents)}; keep one of them")
    try:
        re.compile(source.starts)
    except re.error as error:
        raise UserError(f"{place}: {name}.starts is {shown(source.starts)}, which is not a regular expression: "
                        f"{error}; correct it, for example '^ = [^=]'") from error
