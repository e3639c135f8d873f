"""From a recipe's YAML and the command line's overrides to a checked Recipe; every mistake is one clear line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dstrain.config import rules
from dstrain.config.build import build
from dstrain.config.ds_files import read_ds_config
from dstrain.config.errors import UserError
from dstrain.config.hints import nearest, one_line, shown
from dstrain.config.join import fill_silent, refuse_contradictions
from dstrain.config.overrides import apply_overrides, sections_of
from dstrain.config.presets import resolve
from dstrain.config.schema import Engine, Recipe
from dstrain.config.yaml_tree import Marked, mark, parse_yaml, place_of

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def load_recipe(name_or_path: str, overrides: Sequence[str] = (), ds_config: str | None = None) -> Recipe:
    """The recipe, resolved and checked: the file, then the overrides, then what the ds_configs file says where the
    recipe is silent. `ds_config` is `--deepspeed_config` and wins over the recipe's engine.config."""
    tree = _read(find_recipe(name_or_path))
    apply_overrides(tree, overrides)
    if ds_config is not None:
        place = f"on the command line, --deepspeed_config {ds_config}"
        tree.value["engine"] = _with_config(tree.value.get("engine"), ds_config, place)
    ds_file = read_ds_config(*_engine_config(tree))
    fill_silent(tree, ds_file)
    recipe = _checked(tree)
    refuse_contradictions(recipe, ds_file, lambda dotted: place_of(tree, dotted))
    return recipe


def load_saved_recipe(path: str | Path) -> Recipe:
    """The recipe that a run or a checkpoint carries: complete in itself, so no ds_configs file is needed."""
    return _checked(_read(Path(path)))


def recipe_from_dict(values: dict[str, Any]) -> Recipe:
    """The recipe that `recipe_to_dict` wrote, checked and resolved like one from a file."""
    return _checked(mark(values, "the recipe"))


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain dicts, lists, numbers and text, complete: written as YAML and loaded again, it is the same recipe."""
    return _plain(recipe)


def recipe_names() -> list[tuple[str, str]]:
    """The packaged recipes, each with its description: the first line of the file, a comment."""
    return [(path.stem, _first_comment(path)) for path in sorted(RECIPES.glob("*.yaml"))]


def find_recipe(name_or_path: str) -> Path:
    """The file of a packaged name, or the path itself when it ends in .yaml or .yml."""
    names = [name for name, _ in recipe_names()]
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        if path.is_file():
            return path
        siblings = [sibling.name for sibling in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        hint = nearest(path.name, siblings) if siblings else "look for a mistake in the path"
        if path.stem in names:
            hint = f"the packaged recipe is called {path.stem!r}, without the ending"
        raise UserError(f"{shown(name_or_path)}: there is no such recipe file; {hint}")
    if name_or_path not in names:
        raise UserError(f"{shown(name_or_path)}: there is no recipe of this name; {nearest(name_or_path, names)} "
                        f"(a path to your own recipe ends in .yaml)")
    return RECIPES / f"{name_or_path}.yaml"


def _read(path: Path) -> Marked:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; give the path of a recipe file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({one_line(error.reason)} at byte {error.start}); "
                        f"save the recipe as UTF-8") from error
    tree = parse_yaml(text, str(path))
    if tree.value is None:
        raise UserError(f"{path}: the file is empty; a recipe has at least family, model, data, batch and run")
    if not isinstance(tree.value, dict):
        raise UserError(f"{path}: a recipe must be a mapping (`key: value`), and this is {shown(tree.value)[:40]}; "
                        f"begin with `family: lm`")
    return tree


def _checked(tree: Marked) -> Recipe:
    recipe = build(Recipe, tree, sections=sections_of(tree))
    rules.check(recipe, lambda dotted: place_of(tree, dotted))
    recipe = resolve(recipe)
    rules.check(recipe, lambda dotted: place_of(tree, dotted))
    return recipe


def _engine_config(tree: Marked) -> tuple[str, str]:
    """engine.config and its place, read ahead of the rest, because the file may fill silent keys."""
    engine = build(Engine, tree.value.get("engine") or Marked({}, tree.place), "engine")
    return engine.config, place_of(tree, "engine.config")


def _with_config(engine: Marked | None, ds_config: str, place: str) -> Marked:
    if engine is not None and engine.value is not None and not isinstance(engine.value, dict):
        return engine  # build() says what is wrong with it
    keys = dict(engine.value or {}) if engine else {}
    return Marked({**keys, "config": Marked(ds_config, place)}, engine.place if engine else place)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").rstrip()
