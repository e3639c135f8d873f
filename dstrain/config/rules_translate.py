"""Checks of a recipe of the family `translate`: its model, sources of pairs and batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from dstrain.config.counted import check_counted
from dstrain.config.errors import UserError
from dstrain.config.hints import shown
from dstrain.config.model_code import check_code
from dstrain.config.rules_model import check_sizes
from dstrain.config.schema import Recipe
from dstrain.config.source_files import kind_of
from dstrain.config.source_rules import refuse_hub_keys
from dstrain.config.translate import PairSource

SIZES = ("width", "heads", "encoder_layers", "decoder_layers", "ff")
EMBEDDED_LANGUAGES = ("en", "de")

PlaceOf = Callable[[str], str]


def check_translate(recipe: Recipe, place_of: PlaceOf) -> None:
    check_sizes(recipe.model, SIZES, "tiny, small, base", place_of)
    check_code(recipe.model, place_of)
    _check_data(recipe, place_of)
    check_counted(recipe.batch, f"one pair may have batch.length {recipe.batch.length} tokens a side", place_of)
    if recipe.valid.beam > 1 and not recipe.valid.translate and not recipe.log.samples:
        raise UserError(f"{place_of('valid.beam')}: valid.beam is {recipe.valid.beam}, but nothing is translated in "
                        f"validation (valid.translate is off, log.samples 0); remove it")
    if recipe.engine.compile:
        raise UserError(f"{place_of('engine.compile')}: engine.compile is on, but batches of pairs have another shape "
                        f"at almost every step, and each would be compiled anew; remove it")


def _check_data(recipe: Recipe, place_of: PlaceOf) -> None:
    data = recipe.data
    first, second = data.languages
    if not first.strip() or not second.strip() or first == second:
        raise UserError(f"{place_of('data.languages')}: data.languages is {shown(list(data.languages))}, but must name "
                        f"two languages, source and target; write for example [en, de]")
    if not data.train:
        raise UserError(f"{place_of('data.train')}: data.train is an empty list, so there is nothing to train on; "
                        f"give a source, for example [{{embedded: numbers-en-de, part: train}}]")
    asked_for = {source.embedded for source in data.valid if source.embedded is not None}
    for split in ("train", "valid"):
        for i, source in enumerate(getattr(data, split)):
            name = f"data.{split}.{i}"
            if split == "train" and source.part != "train" and source.embedded in asked_for:
                raise UserError(f"{place_of(f'{name}.part')}: {name}.part is {shown(source.part)}, which holds the "
                                f"pairs that data.valid asks for; write part: train")
            check_pairs(source, data.languages, name, lambda key: place_of(f"{name}.{key}"))


def check_pairs(source: PairSource, languages: tuple[str, str], name: str, place_of: PlaceOf) -> None:
    """Raises UserError for the first rule that is broken; `place_of("path")` says where that key stands."""
    kind = _kind(source, name, place_of)
    if kind != "hub":
        refuse_hub_keys(source, name, place_of)
    if kind != "embedded" and source.part != "all":
        raise UserError(f"{place_of('part')}: {name}.part is {shown(source.part)}, but only embedded pairs have parts; "
                        f"remove it")
    if kind == "embedded" and set(languages) != set(EMBEDDED_LANGUAGES):
        raise UserError(f"{place_of('embedded')}: {name}.embedded is {shown(source.embedded)}, which is in en and de, "
                        f"but data.languages is {shown(list(languages))}; write [en, de] or [de, en]")
    if source.columns != (0, 1) and (kind != "path" or kind_of(PurePath(source.path)) != ".tsv"):
        raise UserError(f"{place_of('columns')}: {name}.columns is {shown(list(source.columns))}, but only a .tsv file "
                        f"has columns by number; remove it")
    if min(source.columns) < 0 or source.columns[0] == source.columns[1]:
        raise UserError(f"{place_of('columns')}: {name}.columns is {shown(list(source.columns))}, but must be two "
                        f"different columns, counted from 0; [0, 1] is usual")


def _kind(source: PairSource, name: str, place_of: PlaceOf) -> str:
    """path, parallel, hub or embedded."""
    if (source.source_path is None) != (source.target_path is None):
        given, lacks = ("source_path", "target_path") if source.target_path is None else ("target_path", "source_path")
        raise UserError(f"{place_of(given)}: {name} has {given} but no {lacks}; parallel text has both")
    kinds = {"path": source.path, "parallel": source.source_path, "hub": source.hub, "embedded": source.embedded}
    given = {key: value for key, value in kinds.items() if value is not None}
    if not given:
        raise UserError(f"{place_of('path')}: {name} has neither path nor source_path with target_path nor hub nor "
                        f"embedded; set one of them")
    if len(given) > 1:
        listed = " and ".join(f"{'source_path' if key == 'parallel' else key} {shown(value)}"
                              for key, value in given.items())
        raise UserError(f"{place_of('path')}: {name} has {listed}; keep one of them (the others: null)")
    kind, value = next(iter(given.items()))
    for key in ("path", "source_path", "target_path", "hub"):
        if (said := getattr(source, key)) is not None and not said.strip():
            raise UserError(f"{place_of(key)}: {name}.{key} is {shown(said)}, which names nothing; correct it")
    if kind == "path" and kind_of(PurePath(value)) not in (".tsv", ".jsonl"):
        raise UserError(f"{place_of('path')}: {name}.path is {shown(value)}, which is neither .tsv nor .jsonl (each "
                        f"plain, .gz or .zst); name the two files of parallel text as source_path and target_path")
    return kind
