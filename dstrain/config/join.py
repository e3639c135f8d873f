"""Numbers of the recipe that a user's own DeepSpeed file may carry too.

Each has one home, the recipe: the file's number is used where the recipe is silent, fine where equal, refused where
different. `"auto"` is the recipe's number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dstrain.config.ds_files import DsFile
from dstrain.config.errors import UserError
from dstrain.config.hints import nearest, shown
from dstrain.config.overrides import sections_of
from dstrain.config.schema import Recipe, Schedule
from dstrain.config.yaml_tree import Marked, mark

BATCH = {"train_batch_size": "batch.rows", "train_micro_batch_size_per_gpu": "batch.micro_rows",
         "gradient_clipping": "optim.clip"}
OPTIMIZER = {"lr": "optim.lr", "betas": "optim.betas", "eps": "optim.eps", "weight_decay": "optim.weight_decay"}
SCHEDULER = {"warmup_num_steps": "schedule.warmup_steps", "warmup_type": "schedule.warmup",
             "total_num_steps": "run.steps", "warmup_max_lr": "optim.lr", "cos_min_ratio": "schedule.floor"}
OPTIMIZERS = {"adam": "adamw", "adamw": "adamw"}
SCHEDULES = Schedule.__dataclass_fields__["name"].metadata["choices"]

ONLY = {"optimizer.params.adam_w_mode": True, "optimizer.params.torch_adam": True, "optimizer.params.fused": True,
        "optimizer.params.amsgrad": False, "optimizer.params.bias_correction": True, "optimizer.legacy_fusion": False,
        "scheduler.params.warmup_min_lr": 0, "scheduler.params.warmup_min_ratio": 0,
        "scheduler.params.last_batch_iteration": -1}
"""what dstrain's own AdamW and schedules are, and the only value that a file may give"""


def fill_silent(tree: Marked, ds_file: DsFile) -> None:
    """Writes the file's numbers into the recipe's tree wherever the recipe does not say them itself."""
    batch = sections_of(tree)["batch"].__dataclass_fields__
    for ds_key, recipe_key, value in said(ds_file):
        section_name, _, name = recipe_key.partition(".")
        if section_name == "batch" and name not in batch:
            raise UserError(f"{ds_file.place}: {ds_key} is {shown(value)}, but this recipe counts its batch otherwise "
                            f"({', '.join(batch)}); remove it from the file")
        section = tree.value.setdefault(section_name, Marked({}, f"{ds_file.place}, {ds_key}"))
        if section.value is None:
            section.value = {}
        if not isinstance(section.value, dict) or _is_given(section, name):
            continue
        if recipe_key == "run.steps" and _is_given(section, "tokens"):
            continue
        section.value[name] = mark(value, f"{ds_file.place}, {ds_key}")


def refuse_contradictions(recipe: Recipe, ds_file: DsFile,
                          place_of: Callable[[str], str] = lambda dotted: "the recipe") -> None:
    """Raises UserError, naming both, where the file says another number than the recipe."""
    for ds_key, recipe_key, value in said(ds_file):
        section, _, name = recipe_key.partition(".")
        ours = getattr(getattr(recipe, section), name)
        theirs = tuple(value) if isinstance(value, list) else value
        if isinstance(value, bool) or theirs != ours:
            raise UserError(f"{ds_file.place}: {ds_key} is {shown(value)}, but {recipe_key} is {shown(ours)} "
                            f"({place_of(recipe_key)}); remove it from the file, or make both equal")


def said(ds_file: DsFile) -> list[tuple[str, str, Any]]:
    """(DeepSpeed's key, the recipe's key, value) of every number in the file that belongs to the recipe."""
    keys, found = ds_file.keys, []
    for ds_key, recipe_key in BATCH.items():
        if keys.get(ds_key) is not None:
            found.append((ds_key, recipe_key, keys[ds_key]))
    found += _block(ds_file, "optimizer", OPTIMIZER, "optim.name", _optimizer_name)
    found += _block(ds_file, "scheduler", SCHEDULER, "schedule.name", _schedule_name)
    return [item for item in found if item[2] != "auto"]


def _block(ds_file: DsFile, block_name: str, known: dict[str, str], name_key: str,
           read_name: Callable[[Any, str], str]) -> list[tuple[str, str, Any]]:
    block = ds_file.keys.get(block_name) or {}
    params = block.get("params", {})
    if not isinstance(params, dict):
        raise UserError(f"{ds_file.place}: {block_name}.params is {shown(params)}, but must be an object, {{...}}; "
                        f"write one")
    found = []
    if "type" in block:
        name = block["type"]
        found.append((f"{block_name}.type", name_key, name if name == "auto" else read_name(name, ds_file.place)))
    elif params:
        raise UserError(f"{ds_file.place}: {block_name} has params but no type; add the type")
    only = {key.rpartition(".")[2]: key for key in ONLY if key.startswith(f"{block_name}.")}
    for key, value in {**params, **{key: block[key] for key in ("legacy_fusion",) if key in block}}.items():
        if key in known:
            found.append((f"{block_name}.params.{key}", known[key], value))
        elif key not in only:
            raise UserError(f"{ds_file.place}: {block_name}.params.{key} is {shown(value)}, which dstrain does not "
                            f"know; {nearest(key, [*known, *only])}")
        elif value not in ("auto", ONLY[only[key]]):
            raise UserError(f"{ds_file.place}: {only[key]} is {shown(value)}, but dstrain's is always "
                            f"{shown(ONLY[only[key]])}; remove it")
    return found


def _optimizer_name(name: Any, place: str) -> str:
    if isinstance(name, str) and name.lower() == "muon":
        raise UserError(f"{place}: optimizer.type is {shown(name)}, whose learning rates mean other step sizes than "
                        f"those of dstrain's own Muon; remove the block and set optim.name=muon (and optim.muon_lr)")
    if not isinstance(name, str) or name.lower() not in OPTIMIZERS:
        raise UserError(f"{place}: optimizer.type is {shown(name)}, but dstrain builds AdamW itself; "
                        f"write AdamW, or remove the block")
    return OPTIMIZERS[name.lower()]


def _schedule_name(name: Any, place: str) -> str:
    if name not in SCHEDULES:
        raise UserError(f"{place}: scheduler.type is {shown(name)}, but dstrain has {', '.join(SCHEDULES)}; "
                        f"write one of them, or remove the block")
    return name


def _is_given(section: Marked, name: str) -> bool:
    return name in section.value and section.value[name].value is not None
