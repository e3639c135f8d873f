"""What a task shows, however it is turned, mirrored, recoloured or reordered: by this its copies are known.

Colours are named anew pair by pair, in the order in which they first come, in the input and then in the output. A task
whose colours are exchanged alike in all its grids, as a view does, has these forms unchanged: no such copy escapes. Two
tasks whose pairs differ by another exchange in each pair are held to be the same, too: that errs on the careful side.
"""

from __future__ import annotations

import hashlib

from dstrain.data.grids.task import COLOURS, Example, Task
from dstrain.data.grids.views import SYMMETRIES, turned

VALID_EVERY = 10
"""one in so many tasks is to validate on"""


def is_to_validate(task: Task) -> bool:
    """Whether the task is of the part `valid`: the same for all its copies."""
    return int.from_bytes(canonical_hash(task), "little") % VALID_EVERY == 0


def canonical_hash(task: Task) -> bytes:
    """Demonstrations and queries count alike: a copy may ask what another shows."""
    forms = min(sorted(pair_form(example, symmetry) for example in task.examples) for symmetry in range(SYMMETRIES))
    digest = hashlib.blake2b(digest_size=8)
    for form in forms:
        digest.update(len(form).to_bytes(4, "little"))
        digest.update(form)
    return digest.digest()


def pair_form(example: Example, symmetry: int = 0) -> bytes:
    """Shapes and cells of a turned pair, its colours by the order in which they come; of a query the input alone."""
    grids = [turned(grid, symmetry) for grid in example if grid is not None]
    cells = b"".join(grid.tobytes() for grid in grids)
    first = sorted((cells.find(colour), colour) for colour in range(COLOURS))
    names = bytearray(COLOURS)
    for name, colour in enumerate(colour for place, colour in first if place >= 0):
        names[colour] = name
    return bytes(side for grid in grids for side in grid.shape) + cells.translate(bytes(names).ljust(256, b"\0"))


def cells_in(form: bytes) -> int:
    """Of a pair's two grids."""
    return len(form) - 4
