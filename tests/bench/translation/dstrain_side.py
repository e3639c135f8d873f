"""`dstrain train` as it is, with a clock beside it: CPU time of the training alone, for a comparison on equal budgets.

    .venv/bin/python tests/bench/translation/dstrain_side.py --json clock.json multi30k-en-de run.steps=100

What is counted: CPU time of the process, all of its threads, from the start of the first optimizer step to the end of
the last, reading, logging and saving in between included, validations left out. Set-up, what comes before the first
step, and what comes after the last are not counted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[3])]


class TrainingClock:
    def __init__(self, now: Callable[[], float] = time.process_time):
        self.now, self.began, self.ended, self.outside_s, self.steps = now, None, None, 0.0, 0

    @property
    def cpu_s(self) -> float:
        return 0.0 if self.began is None else self.ended - self.began

    def step(self, train_step: Callable) -> Callable:
        """`train_step`, each call of which is one step."""
        @wraps(train_step)
        def timed(*arguments: Any, **named: Any) -> Any:
            self.began = self._inside() if self.began is None else self.began
            result = train_step(*arguments, **named)
            self.ended, self.steps = self._inside(), self.steps + 1
            return result
        return timed

    def outside(self, act: Callable) -> Callable:
        """`act`, with the clock stopped."""
        @wraps(act)
        def untimed(*arguments: Any, **named: Any) -> Any:
            began = self.now()
            try:
                return act(*arguments, **named)
            finally:
                self.outside_s += self.now() - began
        return untimed

    def _inside(self) -> float:
        return self.now() - self.outside_s


def main() -> int:
    if len(sys.argv) < 4 or sys.argv[1] != "--json":
        print(__doc__, file=sys.stderr)
        return 2
    from dstrain.__main__ import main as dstrain
    from dstrain.train import trainer
    from dstrain.train.watch import Watch

    clock, parameters = TrainingClock(), []
    trainer.train_step = clock.step(trainer.train_step)
    Watch.validate = clock.outside(Watch.validate)
    trainer.build_engine = _counting(trainer.build_engine, parameters)
    status = dstrain(["train", *sys.argv[3:]])
    Path(sys.argv[2]).write_text(json.dumps({"cpu_s": clock.cpu_s, "steps": clock.steps,
                                             "parameters": sum(parameters)}) + "\n")
    return status


def _counting(build_engine: Callable, parameters: list[int]) -> Callable:
    def built(*arguments: Any, **named: Any) -> Any:
        engine = build_engine(*arguments, **named)
        parameters.extend(parameter.numel() for parameter in engine.trainee.parameters())
        return engine
    return built


if __name__ == "__main__":
    sys.exit(main())
