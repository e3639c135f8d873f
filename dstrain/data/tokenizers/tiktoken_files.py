"""tiktoken's own encodings by name: from its cache or the network, within a time limit; where files go without one."""

from __future__ import annotations

import difflib
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dstrain.config.errors import UserError

_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 10.0, 30.0


def tiktoken_encoding(name: str) -> Any:
    import requests
    import tiktoken

    _check_known(name)
    try:
        with _bounded_downloads():
            return tiktoken.get_encoding(name)
    except requests.RequestException as error:
        reason = f"{type(error).__name__} for {error.request.url}" if error.request is not None else str(error)
        raise UserError(_how_to_get(name, reason)) from error
    except (OSError, ValueError) as error:  # a cache that cannot be written; a file with another checksum
        raise UserError(_how_to_get(name, str(error))) from error


def missing_files(name: str) -> dict[str, Path]:
    """Of an encoding: the addresses that are not in tiktoken's cache on this machine, each with where it belongs."""
    _check_known(name)
    places = {url: cache_folder() / _cache_name(url) for url in _urls(name)}
    return {url: place for url, place in places.items() if not place.exists()}


def cache_folder() -> Path:
    named = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    return Path(named) if named is not None else Path(tempfile.gettempdir()) / "data-gym-cache"


def _check_known(name: str) -> None:
    import tiktoken

    known = tiktoken.list_encoding_names()
    if name not in known:
        raise UserError(f"tokenizer: {name!r} is unknown; did you mean {_near(name, known)!r}? There are bytes, "
                        f"{', '.join(sorted(known))}, bpe:N (such as bpe:8192), and the path of a folder that holds a "
                        f"saved tokenizer")


def _near(name: str, known: list[str]) -> str:
    if Path(name).is_dir():
        return f".{os.sep}{name}"
    if name.lower().startswith("bpe"):
        return "bpe:8192"
    return difflib.get_close_matches(name, ["bytes", *known], n=1, cutoff=0.0)[0]


def _how_to_get(name: str, reason: str) -> str:
    files = "; ".join(f"{url} saved as {place.name}" for url, place in missing_files(name).items())
    files = files or "the encoding's files"
    return (f"tokenizer {name}: its files are not in {cache_folder()} and could not be downloaded ({reason}). Where "
            f"there is no network, put into a folder that TIKTOKEN_CACHE_DIR names: {files}")


def _urls(name: str) -> list[str]:
    """The addresses that stand in the code of tiktoken's constructor for this encoding."""
    from tiktoken import registry

    constants = registry.ENCODING_CONSTRUCTORS[name].__code__.co_consts
    return [value for value in constants if isinstance(value, str) and value.startswith("https://")]


def _cache_name(url: str) -> str:
    """The file name under which tiktoken looks for a download."""
    return hashlib.sha1(url.encode()).hexdigest()


_DOWNLOADS = threading.Lock()


@contextmanager
def _bounded_downloads() -> Iterator[None]:
    """tiktoken downloads without a time limit: on a node whose network swallows packets it would wait for ever."""
    import requests
    import tiktoken.load

    def read_file(address: str) -> bytes:
        if "://" not in address:
            return Path(address).read_bytes()
        response = requests.get(address, timeout=(_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S))
        response.raise_for_status()
        return response.content

    with _DOWNLOADS:
        original, tiktoken.load.read_file = tiktoken.load.read_file, read_file
        try:
            yield
        finally:
            tiktoken.load.read_file = original
