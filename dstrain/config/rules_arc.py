"""Checks of a recipe of the family `arc`: its model, sources of puzzles and batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from dstrain.config.arc import ArcModel, PuzzleSource
from dstrain.config.counted import check_counted
from dstrain.config.errors import UserError
from dstrain.config.hints import shown
from dstrain.config.model_code import check_code
from dstrain.config.presets import GRID_TOKENIZER, UNSAID
from dstrain.config.rules_lm import check_objective
from dstrain.config.rules_model import check_sizes
from dstrain.config.schema import Recipe

SIZES = {"decoder": ("width", "heads", "layers", "ff"),
         "encoder-decoder": ("width", "heads", "encoder_layers", "decoder_layers", "ff"),
         "champion": ("width", "heads", "encoder_layers", "decoder_layers", "ff")}
OF_OTHERS = {"decoder": ("encoder_layers", "decoder_layers"), "encoder-decoder": ("layers",), "champion": ("layers",)}

PlaceOf = Callable[[str], str]


def check_arc(recipe: Recipe, place_of: PlaceOf) -> None:
    model = recipe.model
    check_sizes(model, SIZES[model.kind], "tiny, small, base, large", place_of)
    for name in OF_OTHERS[model.kind]:
        if getattr(model, name) is not None:
            raise UserError(f"{place_of(f'model.{name}')}: model.{name} is {getattr(model, name)}, but a {model.kind} "
                            f"has {' and '.join(name for name in SIZES[model.kind] if 'layers' in name)}; remove it")
    if model.kind == "champion":
        _check_dimensions(model, place_of)
    check_code(model, place_of)
    _check_adapters(recipe, place_of)
    _check_data(recipe, place_of)
    check_objective(recipe, place_of)
    check_counted(recipe.batch, f"one puzzle may have batch.length {recipe.batch.length} positions", place_of)
    name = recipe.tokenizer
    if name not in (UNSAID, GRID_TOKENIZER) and "/" not in str(name):
        raise UserError(f"{place_of('tokenizer')}: tokenizer is {shown(name)}, but grids have ids of their own; remove "
                        f"it")
    if recipe.engine.compile:
        raise UserError(f"{place_of('engine.compile')}: engine.compile is on, but batches of puzzles have another "
                        f"shape at almost every step, and each would be compiled anew; remove it")


def _check_adapters(recipe: Recipe, place_of: PlaceOf) -> None:
    rank, base = recipe.model.adapter_rank, recipe.model.adapt
    if base is not None and not base.strip():
        raise UserError(f"{place_of('model.adapt')}: model.adapt is {shown(base)}, which names nothing; give the "
                        f"folder of a trained run")
    if rank and base is None:
        raise UserError(f"{place_of('model.adapter_rank')}: model.adapter_rank is {rank}, but there is no model.adapt: "
                        f"adapters stand beside trained weights; set model.adapt to a trained run")
    if base is not None and not rank:
        raise UserError(f"{place_of('model.adapt')}: model.adapt is {shown(base)}, but model.adapter_rank is 0, so "
                        f"nothing would be trained; set model.adapter_rank, for example to 8")
    if rank and recipe.optim.name == "muon":
        raise UserError(f"{place_of('optim.name')}: optim.name is muon, which updates the very matrices that stay as "
                        f"they are beside adapters; set optim.name=adamw")


def _check_dimensions(model: ArcModel, place_of: PlaceOf) -> None:
    """Two numbers tell a place, and each turns pairs of a head's channels; eight heads look at another grid."""
    width, heads = model.width, model.heads
    if width is not None and width % 32:
        raise UserError(f"{place_of('model.width')}: model.width is {width}, but a champion looks at other grids with "
                        f"eight heads, whose channels turn by fours; choose a multiple of 32")
    if width is not None and heads is not None and width // heads % 4:
        raise UserError(f"{place_of('model.heads')}: model.heads is {heads}, so each head has {width // heads} of "
                        f"model.width {width} channels, and positions in two dimensions turn fours of them; choose "
                        f"heads with width / heads a multiple of 4")


def _check_data(recipe: Recipe, place_of: PlaceOf) -> None:
    data = recipe.data
    if not data.train:
        raise UserError(f"{place_of('data.train')}: data.train is an empty list, so there is nothing to train on; "
                        f"give a source, for example [{{embedded: puzzles, part: train}}]")
    asked_for = {_what(source) for source in data.valid}
    for split in ("train", "valid"):
        for i, source in enumerate(getattr(data, split)):
            name = f"data.{split}.{i}"
            check_puzzles(source, name, lambda key: place_of(f"{name}.{key}"))
            if split == "train" and source.part != "train" and _what(source) in asked_for:
                raise UserError(f"{place_of(f'{name}.part')}: {name}.part is {shown(source.part)}, which holds the "
                                f"puzzles that data.valid asks for; write part: train (and part: valid there)")


def check_puzzles(source: PuzzleSource, name: str, place_of: PlaceOf) -> None:
    """Raises UserError for the first rule that is broken; `place_of("path")` says where that key stands."""
    if source.path is not None and source.embedded is not None:
        raise UserError(f"{place_of('path')}: {name} has path {shown(source.path)} and embedded "
                        f"{shown(source.embedded)}; keep one of them (the other: null)")
    if source.path is None and source.embedded is None:
        raise UserError(f"{place_of('path')}: {name} has neither path nor embedded; set one of them")
    if source.path is not None and not source.path.strip():
        raise UserError(f"{place_of('path')}: {name}.path is {shown(source.path)}, which names nothing; correct it")
    if source.path is not None and PurePath(source.path).suffix.lower() != ".json":
        raise UserError(f"{place_of('path')}: {name}.path is {shown(source.path)}, which does not end in .json; a "
                        f"folder of tasks is FOLDER/*.json")


def _what(source: PuzzleSource) -> tuple[str | None, str | None]:
    return source.path, source.embedded
