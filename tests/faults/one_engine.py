"""An engine of one rank in this process, and forked children in which a load goes wrong: the parent stays whole."""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import harness  # noqa: E402
import torch  # noqa: E402

from dstrain.config.engine_json import engine_json  # noqa: E402
from dstrain.config.load import load_recipe  # noqa: E402
from dstrain.config.schema import Recipe, Source  # noqa: E402
from dstrain.data.tokenizers.tokenizer import load_tokenizer  # noqa: E402
from dstrain.families import family_of  # noqa: E402
from dstrain.runtime.checkpoint.saver import Saver  # noqa: E402
from dstrain.runtime.dist import Ranks, start_ranks  # noqa: E402
from dstrain.runtime.engine import Engine  # noqa: E402
from dstrain.train.state import RunState, write_side_files  # noqa: E402
from dstrain.train.step import train_step  # noqa: E402

HANGS_AFTER_S = 60


class Trained:
    """A small model that can be trained on, a step at a time."""

    def __init__(self, stage: int = 1):
        torch.set_num_threads(1)
        self.place = harness.lay_out(Path(tempfile.mkdtemp(prefix="dstrain-disk-")))
        recipe = load_recipe(str(self.place / "run.yaml"))
        source = Source(path=str(self.place / "corpus.txt"), documents="lines")
        self.recipe: Recipe = replace(recipe, data=replace(recipe.data, train=(source,), valid=()))
        self.ranks: Ranks = start_ranks()
        self.family, self.tokenizer = family_of(self.recipe), load_tokenizer(self.recipe.tokenizer)
        self.config = engine_json(self.recipe, 1, "cpu", f"zero{stage}_fp32")
        self.engine = self.new_engine()
        self.step = 0

    def new_engine(self) -> Engine:
        return Engine(lambda: self.family.build_trainee(self.recipe, self.tokenizer),
                      lambda trainee: lambda name, shape: self.family.initial_weight(trainee.model, name, shape, 1),
                      self.recipe, self.config, self.ranks)

    def train(self, steps: int) -> None:
        objective, last = self.family.build_objective(self.recipe), self.step + steps
        with closing(self.family.train_feed(self.recipe, self.tokenizer, 0, 1, None)) as feed:
            for batch in feed:
                if batch.number > self.step:
                    train_step(self.engine, objective, batch.micro_batches, batch.rows_hash, batch.number, 1,
                               self.ranks)
                    self.step = batch.number
                if self.step == last:
                    return

    def save(self, folder: Path) -> None:
        """Commit a checkpoint of this moment in folder/, as the trainer does."""
        saver = Saver(folder, self.engine, self.ranks, 99, True, {}, lambda line: None)
        try:
            saver.save(RunState(step=self.step).to_json(),
                       lambda where: write_side_files(where, self.recipe, self.tokenizer), is_best=False)
            saver.finish()
        finally:
            saver.close()

    def weights(self) -> bytes:
        """Of this moment: every fp32 master and moment, in order."""
        return b"".join(values.detach().numpy().tobytes() for fragment in self.engine.own_fragments()
                        for values in (fragment.weight, *fragment.moments.values()))


def in_child(act: Callable[[], Any]) -> tuple[str, Any]:
    """("returned", value), ("raised", the exception's words), ("killed", None) or ("hung", None), of a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            answer = ("returned", act())
        except BaseException as error:  # told to the parent, which judges it
            answer = ("raised", f"{type(error).__name__}: {error}")
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(write)
    return _answer(child, read)


def _answer(child: int, read: int) -> tuple[str, Any]:
    import select
    import signal
    data = b""
    while True:
        if not select.select([read], [], [], HANGS_AFTER_S)[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(read)
            return "hung", None
        block = os.read(read, 1 << 20)
        if not block:
            break
        data += block
    os.close(read)
    os.waitpid(child, 0)
    return pickle.loads(data) if data else ("killed", None)
