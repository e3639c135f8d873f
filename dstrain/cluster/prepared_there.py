"""Whether a folder of token shards holds all that a recipe asks of it: looked at, not read. The readers need numpy."""

from __future__ import annotations

import json
from pathlib import Path

from dstrain.config.errors import UserError
from dstrain.config.prepared_form import MAGIC, TAIL_BYTES, description_of_folder
from dstrain.config.same_source import difference_in_words
from dstrain.config.schema import Recipe


def prepared_there(recipe: Recipe) -> Path:
    """The folder; a UserError that names what is missing."""
    folder = Path(recipe.data.prepared)
    again = f"run dstrain prepare RECIPE --out {folder} again, which goes on from there"
    sources = description_of_folder(folder)["sources"]
    _check_tokenizer(folder / "tokenizer" / "tokenizer.json", recipe.tokenizer, again)
    for split in ("train", "valid"):
        for number, source in enumerate(getattr(recipe.data, split)):
            place = f"data.{split}.{number}"
            if place not in sources:
                raise UserError(f"{place}: {folder} was prepared without it (it holds {', '.join(sources)}); {again}")
            if difference := difference_in_words(sources[place], source, place):
                raise UserError(f"{difference} when {folder} was prepared; restore that, or prepare another folder "
                                f"(dstrain prepare RECIPE --out FOLDER)")
            shard = 0
            while not _is_last(path := folder / place / f"{shard:06d}.shard", again):
                shard += 1
    return folder


def _check_tokenizer(saved: Path, asked: str, again: str) -> None:
    """A tokenizer's folder is asked for with a slash in it, and is then compared by the run itself."""
    try:
        name = json.loads(saved.read_text(encoding="utf-8"))["name"]
    except FileNotFoundError:
        raise UserError(f"data.prepared: {saved} is missing; {again}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"data.prepared: {saved} cannot be read ({type(error).__name__}: {error}); restore it, or "
                        f"prepare another folder") from None
    if "/" not in asked and name != asked:
        raise UserError(f"tokenizer: the recipe's is {asked!r}, but {saved} holds {name!r}; set tokenizer={name}, or "
                        f"prepare the sources for this one into another folder (dstrain prepare RECIPE --out FOLDER)")


def _is_last(shard: Path, again: str) -> bool:
    try:
        with open(shard, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read()
            length = int.from_bytes(tail[32:40], "little")
            if not tail.endswith(MAGIC) or length + TAIL_BYTES > size:
                raise ValueError("its end is missing")
            file.seek(size - TAIL_BYTES - length)
            return bool(json.loads(file.read(length))["last"])
    except FileNotFoundError:
        raise UserError(f"data.prepared: {shard} is missing: the source is not prepared to its end; {again}") from None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"data.prepared: {shard} is damaged ({error}); {again}") from None
