"""What `dstrain doctor` wrote into a run folder, read without torch: is it of this recipe and this code, and whole?"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dstrain import __version__
from dstrain.config.certified_files import files_of_recipe, hash_of, imports_hash, versions_here
from dstrain.config.code_hash import code_hash
from dstrain.config.ds_files import read_ds_config
from dstrain.config.errors import UserError
from dstrain.config.flat import flat
from dstrain.config.hints import one_line, shown
from dstrain.config.load import recipe_to_dict
from dstrain.config.model_code import file_and_class, text_of
from dstrain.config.proof_names import PROOF_NAMES, may_stay_open
from dstrain.config.schema import Recipe

FILE = "doctor.json"
FORMAT = 2
VERDICTS = ("proven", "not proven", "FAILED")
MOST_BYTES = 16_000_000
# No proof depends on these: where and how often something is written, how long a call lasts, names of the same thing.
# Of engine.config and of model.code the content counts.
IRRELEVANT = ("run.dir", "run.name", "run.tokens", "run.max_minutes", "run.max_skipped", "log.", "checkpoint.",
              "valid.every", "valid.patience", "data.prefetch_steps", "data.workers", "data.folder", "model.preset",
              "model.code", "engine.config")
_HASHED = {"engine_file": "the engine file", "code": "dstrain", "model_code": "the file with the model's class",
           "model_imports": "a file that the model's class imports"}


def subject_of(recipe: Recipe, pinned: Recipe | None = None) -> dict[str, Any]:
    """What a certificate is about, as JSON: recipe, versions, files, and hashes of engine file and code.

    `pinned` is the recipe with the commit of each dataset of the hub as it was read.
    """
    keys = relevant(recipe)
    return {"dstrain": __version__, "recipe": keys,
            "commits": {key: value for key, value in relevant(pinned or recipe).items() if key.endswith(".revision")},
            "versions": versions_here(), "files": files_of_recipe(recipe),
            "hashes": {"recipe": hash_of(keys), "engine_file": hash_of(read_ds_config(recipe.engine.config).keys),
                       "code": code_hash(), "model_code": model_code_hash(recipe),
                       "model_imports": imports_hash(recipe)}}


def relevant(recipe: Recipe) -> dict[str, Any]:
    """The recipe by dotted keys, without what no proof depends on."""
    return {key: value for key, value in flat(recipe_to_dict(recipe)).items() if not key.startswith(IRRELEVANT)}


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
    """None where there is none, or what stands there is none: whoever goes on with it need not look again."""
    path = folder / FILE
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(found, ensure_ascii=False).encode()  # a half of a character could not be printed
    except (OSError, ValueError, RecursionError):
        return None
    return found if _is_certificate(found) else None


def why_not_proven(folder: Path, recipe: Recipe) -> str | None:
    """In a few words what is missing for this recipe to be proven, or None: it is."""
    if not os.path.lexists(folder / FILE):
        return f"there is no {FILE}"
    found = read_certificate(folder)
    if found is None:
        return f"{folder / FILE} is no certificate of this dstrain"
    now = subject_of(recipe)
    return (_other_recipe(found["subject"], now) or _other_hash(found["subject"], now)
            or _other_version(found["subject"], now) or _other_files(found["subject"], now) or _open(found, recipe))


def _is_certificate(found: Any) -> bool:
    """Of the form that the doctor writes, with every entry that anybody here reads."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        return False
    subject, proofs = found.get("subject"), found.get("proofs")
    forms = {"device": str, "device_name": str, "versions": dict, "passed": bool, "figures": list}
    if not all(isinstance(found.get(key), form) for key, form in forms.items()):
        return False
    if not all(_are(found.get(key), str) for key in ("not_proven", "not_run")) or not _are(proofs, dict):
        return False
    parts = ("recipe", "commits", "versions", "files", "hashes")
    if not isinstance(subject, dict) or not all(isinstance(subject.get(part), dict) for part in parts):
        return False
    if not all(_is_plain(value) for value in (*subject["recipe"].values(), *subject["commits"].values(),
                                                  *subject["versions"].values())):
        return False
    if not all(_is_count(entry) for entry in subject["files"].values()):
        return False
    if not all(_is_proof(proof) for proof in proofs):
        return False
    names = [proof["name"] for proof in proofs]
    return (len(set(names)) == len(names)
            and found["passed"] == (not found["not_run"] and all(proof["verdict"] != "FAILED" for proof in proofs)))


def _is_proof(proof: dict) -> bool:
    texts = ("name", "claim", *(("why_not",) if proof.get("verdict") == "not proven" else ("figure", "tolerance")))
    return proof.get("verdict") in VERDICTS and all(isinstance(proof.get(key), str) for key in texts)


def _is_count(entry: Any) -> bool:
    return entry is None or isinstance(entry, dict) and all(
        type(entry.get(key)) is int for key in ("files", "bytes")) and isinstance(entry.get("digest"), str)


def _are(values: Any, form: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, form) for value in values)


def _is_plain(value: Any) -> bool:
    return value is None or value in ([], {}) or isinstance(value, (str, int, float))


def _other_recipe(proven: dict, now: dict) -> str | None:
    before, keys = proven["recipe"], now["recipe"]
    changed = [key for key in sorted(before.keys() | keys.keys())
               if before.get(key) != keys.get(key) and not _as_read(proven, key, keys.get(key))]
    if not changed:
        return None
    key, more = changed[0], f" (and {len(changed) - 1} more keys)" if changed[1:] else ""
    read = {name: commit for name, commit in proven["commits"].items() if commit is not None}
    was, now_is = _in_words({**before, **read}, key), _in_words(keys, key)
    return f"{one_line(key)} was {was} when it was proven, and is {now_is} now{more}"


def _as_read(proven: dict, key: str, now: Any) -> bool:
    """A run writes down at which commit it reads a dataset: it is the one that was proven."""
    return key.endswith(".revision") and now is not None and proven["commits"].get(key) == now


def _in_words(keys: dict, key: str) -> str:
    return one_line(shown(keys[key])) if key in keys else "absent"


def _other_hash(proven: dict, now: dict) -> str | None:
    different = [name for name in _HASHED if proven["hashes"].get(name) != now["hashes"][name]]
    return f"{_HASHED[different[0]]} is another one since it was proven" if different else None


def _other_version(proven: dict, now: dict) -> str | None:
    """A login node's Python without torch has none, and is not the one that trains."""
    before, here = proven["versions"], now["versions"]
    return next((f"{name} was {_in_words(before, name)} when it was proven, and is {version} now"
                 for name, version in here.items() if before.get(name) != version), None)


def _other_files(proven: dict, now: dict) -> str | None:
    before, here = proven["files"], now["files"]
    different = [place for place in here if before.get(place) != here[place]]
    if not different:
        return None
    place = different[0]
    return (f"{place}: its files are others, or were written anew, since it was proven ({_counted(before.get(place))}; "
            f"now {_counted(here[place])})")


def _counted(entry: dict | None) -> str:
    return "none found" if entry is None else f"{entry['files']:,} file(s), {entry['bytes']:,} bytes"


def _open(found: dict, recipe: Recipe) -> str | None:
    """What failed, was not run, or was tried in vain though this recipe has what it takes."""
    proofs = {proof["name"]: proof for proof in found["proofs"]}
    if proofs.keys() - set(PROOF_NAMES):
        return f"{FILE} names proofs that this dstrain does not have"
    failed = [name for name, proof in proofs.items() if proof["verdict"] == "FAILED"]
    if failed:
        return f"a proof failed: {', '.join(failed)}"
    left_out = [name for name in PROOF_NAMES if name not in proofs]
    if left_out:
        return f"{len(left_out)} of {len(PROOF_NAMES)} proofs were not run: {', '.join(left_out)}"
    vain = [name for name, proof in proofs.items()
            if proof["verdict"] == "not proven" and not may_stay_open(name, recipe)]
    return f"{', '.join(vain)} could not be tried ({one_line(proofs[vain[0]]['why_not'])})" if vain else None
