"""Finds and reads DeepSpeed's JSON: by name in ds_configs/, or by path."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dstrain.config.deepspeed_keys import check_keys
from dstrain.config.errors import UserError
from dstrain.config.hints import nearest, one_line, shown

PACKAGE = Path(__file__).resolve().parent.parent
DEEPEST = 100
MOST_DIGITS = 40
TOO_DEEP = f"lists or objects are nested deeper than {DEEPEST} levels; close the brackets, and write fewer levels"


@dataclass(frozen=True)
class DsFile:
    """What a ds_configs file says, and how messages call it."""

    keys: dict[str, Any]
    place: str


def read_ds_config(name_or_path: str, asked_at: str = "engine.config") -> DsFile:
    """The file's content, with every key known and none that would break a law; `asked_at` says who named it."""
    path = find_ds_config(name_or_path, asked_at)
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
        keys = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant,
                          parse_int=_whole_number, parse_float=_finite_number)
        _check_depth(keys)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; give the path of a JSON file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: this is not valid JSON: {one_line(error.msg)}; "
                        f"look at the commas, quotes and brackets there (JSON has no comments)") from error
    except RecursionError as error:
        raise UserError(f"{path}: {TOO_DEEP}") from error
    except _BadJson as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(keys, dict):
        raise UserError(f"{path}: DeepSpeed's settings must be an object, {{...}}, and this is {shown(keys)[:40]}; "
                        f'write at least {{"zero_optimization": {{"stage": 1}}}}')
    check_keys(keys, str(path))
    return DsFile({key: value for key, value in keys.items() if value is not None}, str(path))  # null: as if absent


def find_ds_config(name_or_path: str, asked_at: str = "engine.config") -> Path:
    """The file of a name in ds_configs/, or the path itself when it ends in .json."""
    folder = ds_configs_folder()
    names = sorted(path.stem for path in folder.glob("*.json"))
    if name_or_path.endswith(".json"):
        path = Path(name_or_path)
        if path.is_file():
            return path
        siblings = [sibling.name for sibling in path.parent.glob("*.json")] if path.parent.is_dir() else []
        hint = nearest(path.name, siblings) if siblings else "look for a mistake in the path"
        if path.stem in names:
            hint = f"the one that comes with dstrain is called {path.stem!r}, without folder and ending"
        raise UserError(f"{asked_at}: there is no file {shown(name_or_path)}; {hint}")
    if name_or_path not in names:
        raise UserError(f"{asked_at}: ds_configs/ has no {shown(name_or_path)}; {nearest(name_or_path, names)} "
                        f"(a path to your own file ends in .json)")
    return folder / f"{name_or_path}.json"


def ds_configs_folder() -> Path:
    """In a wheel the files lie inside the package, in a checkout (or an editable install) beside it."""
    inside, beside = PACKAGE / "ds_configs", PACKAGE.parent / "ds_configs"
    return inside if inside.is_dir() else beside


class _BadJson(Exception):
    pass


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    section: dict[str, Any] = {}
    for key, value in pairs:
        if key in section:
            raise _BadJson(f"{shown(key)} stands twice in one section; keep one of them")
        section[key] = value
    return section


def _no_constant(name: str) -> None:
    raise _BadJson(f"{name} is no JSON number; write an ordinary number")


def _whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise _BadJson(f"{digits[:8]}... is a number of {len(digits)} digits; write at most {MOST_DIGITS}")
    return int(digits)


def _finite_number(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise _BadJson(f"{shown(digits)} is too large for a number; write an ordinary number")
    return float(digits)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [item for holder in level if isinstance(holder, (dict, list))
                 for item in (holder.values() if isinstance(holder, dict) else holder)]
    if level:
        raise _BadJson(TOO_DEEP)
