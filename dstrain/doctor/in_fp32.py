"""The recipe's engine file without its half precision: there a law can be held to fp32's bounds, at the same stage."""

from __future__ import annotations

import json
from pathlib import Path

from dstrain.config.ds_files import read_ds_config
from dstrain.doctor.case import Case

HALVES = ("bf16", "fp16", "torch_autocast", "communication_data_type", "data_types")


def in_fp32(case: Case) -> str:
    """Path of such an engine file, with all other keys as they are."""
    keys = read_ds_config(case.recipe.engine.config, "engine.config").keys
    path = case.folder / f"fp32-{Path(case.recipe.engine.config).name}"
    path.write_text(json.dumps({key: value for key, value in keys.items() if key not in HALVES}))
    return str(path)
