"""What marks a prepared folder and its shards on the disk: a login node asks, too, and has no reader for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dstrain.config.errors import UserError

DESCRIPTION = "prepared.json"
FORM = 1
MAGIC = b"DSTRAIN1"
TAIL_BYTES = 32 + 8 + len(MAGIC)
"""a shard's end, behind its description: that one's SHA-256 and length, MAGIC"""


def description_of_folder(folder: Path) -> dict[str, Any]:
    """What prepared.json says: form, sources, tokenizer. A UserError where there is none, or none of this form."""
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        form = description["form"]
        missing = [name for name in ("sources", "tokenizer") if name not in description]
        if missing:
            raise KeyError(missing[0])
    except FileNotFoundError:
        raise UserError(f"data.prepared: {folder} is no prepared folder (it has no {DESCRIPTION}); write one with "
                        f"dstrain prepare RECIPE --out {folder}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {error}); remove {folder} and prepare it "
                        f"again") from error
    if form != FORM:
        raise UserError(f"{path}: has form {form!r}, this dstrain knows form {FORM}; remove {folder} and prepare it "
                        f"again")
    return description
