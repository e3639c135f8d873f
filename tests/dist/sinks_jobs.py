"""What tests of side files let ranks do: train while the first rank's records meet a disk that fails."""

from __future__ import annotations

import contextlib
import errno
import io

from dstrain.config.engine_json import engine_json
from dstrain.config.schema import Recipe
from dstrain.families import family_of
from dstrain.runtime.dist import Ranks
from dstrain.train.appended import Appended
from dstrain.train.trainer import train


def train_on_a_failing_disk(ranks: Ranks, recipe: Recipe, operation: str, name: str, at: int) -> tuple[str, str]:
    """How this rank ends when call number `at` of append or sync fails for the file whose name holds `name`."""
    inner, calls, number = getattr(Appended, operation), [], {"append": errno.ENOSPC, "sync": errno.EIO}[operation]

    def failing(self: Appended, *arguments) -> None:
        if name in self.path.name:
            calls.append(operation)
            if len(calls) >= at:
                raise OSError(number, "No space left on device" if operation == "append" else "Input/output error",
                              str(self.path))
        inner(self, *arguments)

    setattr(Appended, operation, failing)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            train(recipe, family_of(recipe), engine_json(recipe, ranks.world, "cpu", "zero2_fp32"), ranks)
        return "finished", str(len(calls))
    except Exception as error:
        return type(error).__name__, str(error)
    finally:
        setattr(Appended, operation, inner)
