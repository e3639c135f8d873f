"""What `dstrain doctor` wrote into a run folder, read without torch: is it of this recipe and this code, and whole?"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dstrain import __version__
from dstrain.config.code_hash import code_hash
from dstrain.config.ds_files import read_ds_config
from dstrain.config.errors import UserError
from dstrain.config.flat import flat
from dstrain.config.hints import one_line, shown
from dstrain.config.load import recipe_to_dict
from dstrain.config.model_code import file_and_class, text_of
from dstrain.config.schema import Recipe

FILE = "doctor.json"
FORMAT = 1
# No proof depends on these: where and how often something is written, how long a call lasts, names of the same thing.
# Of engine.config and of model.code the content counts.
IRRELEVANT = ("run.dir", "run.name", "run.tokens", "run.max_minutes", "run.max_skipped", "log.", "checkpoint.",
              "valid.every", "valid.patience", "data.prefetch_steps", "data.workers", "data.folder", "model.preset",
              "model.code", "environment", "engine.config")


def subject_of(recipe: Recipe) -> dict[str, Any]:
    """What a certificate is about, as JSON: recipe, engine file, code, with a hash of each."""
    keys = relevant(recipe)
    return {"dstrain": __version__, "recipe": keys,
            "hashes": {"recipe": hash_of(keys), "engine_file": hash_of(read_ds_config(recipe.engine.config).keys),
                       "code": code_hash(), "model_code": model_code_hash(recipe)}}


def relevant(recipe: Recipe) -> dict[str, Any]:
    """The recipe by dotted keys, without what no proof depends on."""
    return {key: value for key, value in flat(recipe_to_dict(recipe)).items() if not key.startswith(IRRELEVANT)}


def hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def model_code_hash(recipe: Recipe) -> str | None:
    """Of the user's own model class, its name and its file's text; None without one, or where it cannot be read."""
    if recipe.model.code is None:
        return None
    file, name = file_and_class(recipe.model.code)
    try:
        return hash_of([name, text_of(recipe.model.code).decode(errors="replace")])
    except UserError:  # said by those who need the class itself
        return None


def read_certificate(folder: Path) -> dict | None:
    """None where there is none, or what stands there is none."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and found.get("format") == FORMAT and isinstance(found.get("proofs"), list)
    return found if whole and isinstance(found.get("subject"), dict) else None


def why_not_proven(folder: Path, recipe: Recipe) -> str | None:
    """In a few words what is missing for this recipe to be proven, or None: it is."""
    if not (folder / FILE).exists():
        return f"there is no {FILE}"
    found = read_certificate(folder)
    if found is None:
        return f"{folder / FILE} is no certificate of this dstrain"
    return _of_another(found["subject"], subject_of(recipe)) or _not_whole(found)


def _of_another(proven: dict, now: dict) -> str | None:
    before, keys = proven.get("recipe", {}), now["recipe"]
    changed = [key for key in sorted(before.keys() | keys.keys())
               if before.get(key) != keys.get(key) and not _pinned(key, before.get(key), keys.get(key))]
    if changed:
        key, more = changed[0], f" (and {len(changed) - 1} more keys)" if changed[1:] else ""
        return f"{key} was {_in_words(before, key)} when it was proven, and is {_in_words(keys, key)} now{more}"
    hashes = proven.get("hashes", {})
    different = [name for name in now["hashes"] if name != "recipe" and hashes.get(name) != now["hashes"][name]]
    what = {"engine_file": "the engine file", "code": "dstrain", "model_code": "the file with the model's class"}
    return f"{what[different[0]]} is another one since it was proven" if different else None


def _pinned(key: str, before: Any, now: Any) -> bool:
    """A run writes down at which commit it reads a dataset; the recipe that it was started with says none."""
    return key.endswith(".revision") and None in (before, now)


def _in_words(keys: dict, key: str) -> str:
    return one_line(shown(keys[key])) if key in keys else "absent"


def _not_whole(found: dict) -> str | None:
    failed = [proof["name"] for proof in found["proofs"] if proof["verdict"] == "FAILED"]
    if failed:
        return f"a proof failed: {', '.join(failed)}"
    run = {proof["name"] for proof in found["proofs"]}
    left_out = [name for name in found["all_proofs"] if name not in run]
    if not left_out:
        return None
    return f"{len(left_out)} of {len(found['all_proofs'])} proofs were not run: {', '.join(left_out)}"
