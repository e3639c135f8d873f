"""`dstrain doctor`: proofs on the user's own recipe, figures worth knowing, and the certificate."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from dstrain.config.environment import take_environment
from dstrain.config.errors import Trouble, UserError
from dstrain.config.load import load_recipe
from dstrain.config.schema import Recipe
from dstrain.train.run_folder import RunFolder

CTRL_C = 130


def doctor_command(name: str, overrides: list[str], ds_config: str | None, only: list[str], device: str,
                   self_test: bool) -> int:
    """0 when nothing failed, 1 when a proof did (or a planted fault passed); a user's mistake is a UserError."""
    _take_device(device)
    recipe = load_recipe(name, overrides, ds_config)
    take_environment(recipe.environment, os.environ)  # as the training itself does
    if self_test and only:
        raise UserError("--self-test runs every proof; leave --only out")
    try:
        with _told_to_end(), _of_the_place():
            return _tested(recipe, ds_config, device) if self_test else _examined(recipe, ds_config, only, device)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
        print("\ndstrain: stopped by Ctrl-C; no certificate was written", file=sys.stderr)
        return CTRL_C


def _examined(recipe: Recipe, ds_config: str | None, only: list[str], device: str) -> int:
    from dstrain.doctor.registry import PROOFS
    unknown = [proof for proof in only if proof not in PROOFS]
    if unknown:
        raise UserError(f"--only {unknown[0]}: there is no such proof; there are {', '.join(PROOFS)}")
    from dstrain.doctor.consultation import consult
    from dstrain.doctor.place import check_writable
    from dstrain.doctor.screen import Screen

    folder = RunFolder.of(recipe)
    check_writable(folder.path)
    with _case(recipe, ds_config, device) as case:
        return consult(recipe, case, [proof for proof in PROOFS if proof in only or not only], folder, Screen())


def _tested(recipe: Recipe, ds_config: str | None, device: str) -> int:
    from dstrain.doctor.screen import Screen
    from dstrain.doctor.self_test import self_test
    with _case(recipe, ds_config, device) as case:
        return self_test(case, Screen())


@contextlib.contextmanager
def _case(recipe: Recipe, ds_config: str | None, device: str) -> Iterator[Any]:
    """A mistake in the recipe's data is said once, before any proof; ranks and files are gone afterwards."""
    from dstrain.doctor.case import Case
    case = Case.of(recipe, ds_config, device)
    try:
        case.open_data()
        yield case
    finally:
        once = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is cleaning up
        case.close()
        signal.signal(signal.SIGINT, once)


def _take_device(device: str) -> None:
    """Before DeepSpeed is imported, which looks at it once."""
    os.environ["DS_ACCELERATOR"] = device
    if device == "cuda":
        import torch
        if not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no CUDA device here; run it where the GPUs are, or leave "
                            "--device out and prove on CPU ranks")


@contextlib.contextmanager
def _of_the_place() -> Iterator[None]:
    """A disk that is full, or gone, has failed no proof: it ends with 2, as all that the user has to see to."""
    try:
        yield
    except (OSError, Trouble) as error:
        from dstrain.doctor.place import refuse_place
        refuse_place(error)
        if isinstance(error, Trouble):
            raise UserError(str(error)) from error
        raise


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as Ctrl-C does: ranks and files are cleaned up on the way."""
    def leave(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
