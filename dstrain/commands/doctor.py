"""`dstrain doctor`: the proofs on a shrunk copy of the recipe."""

from __future__ import annotations

import os

from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe, recipe_to_dict
from dstrain.train.run_folder import RunFolder, write_json


def doctor_command(name: str, overrides: list[str], ds_config: str | None, only: list[str] | None) -> int:
    """0 when everything was proven, 1 when a proof failed; a user's mistake is a UserError."""
    os.environ["DS_ACCELERATOR"] = "cpu"  # the proofs run on CPU ranks, wherever they are called
    recipe = load_recipe(name, overrides, ds_config)
    from dstrain.doctor.case import Case
    from dstrain.doctor.certificate import certificate
    from dstrain.doctor.examine import PROOFS, examine
    from dstrain.doctor.table import lines_of, width_here
    from dstrain.families import family_of

    if family_of(recipe).shrink is None:
        raise UserError(f"{name}: the doctor has no proofs for the family {recipe.family} yet; there are some for lm")
    names = only or list(PROOFS)
    unknown = [proof for proof in names if proof not in PROOFS]
    if unknown:
        raise UserError(f"--only {unknown[0]}: there is no such proof; there are {', '.join(PROOFS)}")

    case = Case.of(recipe, ds_config)
    folder = RunFolder.of(recipe)
    try:
        case.open_data()  # a mistake in the recipe's data is said once, before any proof
        folder.make()
        print(f"{recipe.run.name}: {len(names)} proofs on a shrunk copy of the recipe, on CPU ranks")
        found = examine(case, names, lambda examined: print(*lines_of(examined, width_here()), sep="\n", flush=True))
    finally:
        case.close()
    write_json(folder.path / "doctor.json", certificate(recipe_to_dict(recipe), found, case.not_proven))
    failed = [examined.name for examined in found if examined.failed]
    print(f"{sum(examined.passed for examined in found)} of {len(found)} proven; written to {folder.path / 'doctor.json'}")
    for what in case.not_proven:
        print(f"not proven here: {what}")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return int(bool(failed))
