"""A recipe's section `environment`: what may stand in it, and how a process takes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, MutableMapping

from dstrain.config.errors import UserError
from dstrain.config.hints import shown

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OF_THE_LAUNCHER = re.compile(r"(LOCAL_|GROUP_|NODE_|CROSS_)?(RANK|SIZE)|(LOCAL_|GROUP_|ROLE_)?WORLD_SIZE|MASTER_.*"
                             r"|(CUDA|HIP|ROCR)_VISIBLE_DEVICES|SLURM_.*|TORCHELASTIC_.*")
OF_THE_START = re.compile(r"PATH|HOME|LD_.*|PYTHON.*|MALLOC_.*|GLIBC_TUNABLES|DS_ENV_FILE|DSTRAIN_.*")
SECRET = re.compile(r"(.*_)?(TOKEN|SECRET|SECRETS|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|CREDENTIALS|KEY|APIKEY|AUTH)",
                    re.IGNORECASE)


def check_environment(environment: Mapping[str, str], place_of: Callable[[str], str]) -> None:
    for name, value in environment.items():
        reason = _against(name, value)
        if reason is not None:
            raise UserError(f"{place_of(f'environment.{name}')}: environment.{name} {reason}")


def take_environment(environment: Mapping[str, str], taken_by: MutableMapping[str, str]) -> str | None:
    """Sets what is not set yet. Returns, in a line, what the recipe and the shell say differently."""
    different = []
    for name, value in environment.items():
        if taken_by.setdefault(name, value) != value:
            different.append(f"{name} is {shown(taken_by[name])} in the shell, and that is used "
                             f"(the recipe says {shown(value)})")
    return f"environment: {'; '.join(different)}" if different else None


def _against(name: str, value: str) -> str | None:
    if not NAME.fullmatch(name):
        return "is no name of a variable; use letters, digits and '_'"
    if OF_THE_LAUNCHER.fullmatch(name):
        return "is the launcher's: each rank gets its own; remove it"
    if OF_THE_START.fullmatch(name):
        return "is read before a recipe is; set it in the shell (or in the sbatch script) and remove it here"
    if SECRET.fullmatch(name):
        return "looks like a secret, and recipes are kept and shown; set it in the shell and remove it here"
    if "\n" in value or "\0" in value:
        return f"is {shown(value)}, and launchers hand on lines; write it in one line"
    return None
