"""engine.compile: the same losses, how long the first step takes, and whether a second start finds its code.

Each start is a process of its own, as a user's is; both use one cache folder, empty at first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from frame import Here, Outcome, judge

ENGINES = ("zero1_fp32", "zero3_fp32")
"""compiled in bf16 are the speed checks' loops, whose losses are compared there"""
LOSSES = 1e-5
SECOND_START = 0.7
"""of the first start's time to compile, at most"""
PROGRAM = Path(__file__).resolve()


def show(here: Here) -> Outcome:
    if here.rehearsing and shutil.which("g++") is None:
        return Outcome(None, {}, "", "torch.compile on a CPU needs a C++ compiler, and there is none")
    engines = ENGINES[:1] if here.rehearsing else ENGINES
    figures, holds = {}, {}
    for name in engines:
        cache = here.folder / f"cache-{name}"
        first, second = (_start(here, name, cache, starts) for starts in ("first", "second"))
        figures[name] = {"losses": first["losses_off"], "eager_first_step_s": first["eager_first_step_s"],
                         "first_start_s": first["compiled_first_step_s"],
                         "second_start_s": second["compiled_first_step_s"],
                         "second_losses": second["losses_off"], "graph_breaks": first["graph_breaks"]}
        here.note(figures)
        share = ((second["compiled_first_step_s"] - first["eager_first_step_s"])
                 / (first["compiled_first_step_s"] - first["eager_first_step_s"]))
        figures[name]["second_start_share"] = share
        holds |= {f"{name}: losses {first['losses_off']:.1e}": first["losses_off"] <= LOSSES,
                  f"{name}: losses of the second start {second['losses_off']:.1e}": second["losses_off"] <= LOSSES,
                  f"{name}: it did not compile": first["compiled_first_step_s"] > first["eager_first_step_s"],
                  f"{name}: a second start takes {share:.2f} of the first": here.rehearsing or share <= SECOND_START}
    return judge(here, holds, figures, f"losses {LOSSES:.0e} relative; a second start compiles in at most "
                 f"{SECOND_START} of the first one's time")


def _start(here: Here, ds_config: str, cache: Path, which: str) -> dict:
    command = [sys.executable, str(PROGRAM), ds_config, str(here.folder / which), *(["--rehearse"] * here.rehearsing)]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{which} start of {ds_config}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def one_start(ds_config: str, folder: Path, rehearsing: bool) -> dict:
    """Eager and compiled in one process: losses apart, seconds to the end of the first step of each."""
    import torch
    from case_here import CaseHere

    from dstrain.doctor.proofs.same_curve import compare
    from dstrain.doctor.short_run import short_run

    folder.mkdir(exist_ok=True)
    here = Here(rehearsing, folder, folder / "notes")
    case = CaseHere.of(here)
    steps = 2 if rehearsing else 20
    recipe = replace(case.recipe, batch=replace(case.recipe.batch, micro_rows=case.recipe.batch.rows // 2))
    to_compile = replace(recipe, engine=replace(recipe.engine, compile=True))
    short_run(here.ranks, recipe, ds_config, 1)  # the device's own warm-up
    eager_s, eager = _timed(here, recipe, ds_config, steps)
    compiled_s, compiled = _timed(here, to_compile, ds_config, steps)
    breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
    return {"losses_off": compare(eager, [compiled])[0], "eager_first_step_s": eager_s,
            "compiled_first_step_s": compiled_s, "graph_breaks": breaks}


def _timed(here: Here, recipe, ds_config: str, steps: int):
    """(seconds that a run of one step takes, start included; the trace of a run of `steps`)."""
    from dstrain.doctor.short_run import short_run

    began = time.perf_counter()
    short_run(here.ranks, recipe, ds_config, 1)
    here.wait()
    return time.perf_counter() - began, short_run(here.ranks, recipe, ds_config, steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("ds_config")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    print(json.dumps(one_start(arguments.ds_config, arguments.folder, arguments.rehearse)), flush=True)
    os._exit(0)
