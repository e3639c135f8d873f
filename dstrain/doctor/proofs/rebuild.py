"""A checkpoint alone is enough: in another process, with nothing else there, it gives the same model and tokenizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from dstrain.config.errors import UserError
from dstrain.config.schema import Recipe
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, NotProven, exactly
from dstrain.doctor.quiet_training import quietly, train_quietly
from dstrain.families import family_of
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import counters, whole_shape
from dstrain.train.family import Family
from dstrain.train.run_folder import RunFolder

CLAIM = "the checkpoint alone rebuilds model and tokenizer, to the bit"
STEPS = 2
TEXTS = ("The quick brown fox, 1234 of them.", "ein Wort \u2013 and a 😀", "  def f(x):\n\treturn x\n")
TIMEOUT_S = 120.0


def prove(case: Case) -> Finding:
    """Trained by the trainer; then all but the newest checkpoint is gone: recipe, data, run folder, tokenizer."""
    folder, away = case.new_folder("rebuild"), case.new_folder("away")
    recipe = resaved(case, case.on_few_documents("gone"), folder)
    expected = trained(case, recipe)
    checkpoint = the_newest(RunFolder.of(recipe).checkpoints)
    if checkpoint is None:
        return Finding(False, "no checkpoint was committed", "one", "the trainer saved nothing", "look at its messages")
    shutil.move(checkpoint, away / "checkpoint")
    shutil.rmtree(folder)
    found, why = rebuilt(away, expected)
    if found is None:
        return Finding(False, f"it cannot be used: {why}", "used by another process in another folder",
                       "something that is needed to build the model again is not in the checkpoint, or not where it "
                       "is looked for: the recipe, the tokenizer, or the weights under their names",
                       "write all of it beside the weights, before the checkpoint is committed")
    names = [name for name in expected["answers"] if not _same(expected["answers"][name], found[name])]
    values = sum(value.numel() if isinstance(value, torch.Tensor) else 1 for value in expected["answers"].values())
    finding = exactly(len(names), len(expected["answers"]), f"answers ({values:,} hidden states, tokens and texts)",
                      f"{', '.join(names)}: weights that are not saved, or not the newest; a setting of the model or a "
                      "tokenizer that is not in the checkpoint")
    return finding if finding.passed else replace(finding, remedy="save it with the checkpoint, and load it from there")


def resaved(case: Case, recipe: Recipe, folder: Path) -> Recipe:
    """Few steps into a folder of their own, with a tokenizer that stands there, too, and will be gone with it."""
    tokenizer = case.tokenizer()
    tokenizer.save(folder / "tokenizer")
    return replace(recipe, tokenizer=_moved(recipe.tokenizer, case.folder, folder),
                   run=replace(recipe.run, name="run", dir=str(folder), steps=STEPS),
                   log=replace(recipe.log, samples=1), valid=replace(recipe.valid, every=STEPS, patience=None),
                   schedule=replace(recipe.schedule, warmup_steps=1, decay_steps=recipe.schedule.decay_steps and 1))


def trained(case: Case, recipe: Recipe) -> dict[str, Any]:
    """What model and tokenizer answered at the end of the training, and what they were asked."""
    asked = case.ranks(1).run(train_and_ask, recipe)[0]
    model = case.family.build_trainee(recipe, case.tokenizer()).model.to(asked["dtype"])
    with torch.no_grad():
        for name, kept in (*model.named_parameters(), *counters(model)):
            kept.copy_(asked["weights"][name].view_as(kept))
    with torchs_own_linear():
        asked["answers"] = hidden_states(case.family, model, asked["inputs"]) | asked["of_tokenizer"]
    return asked


@contextmanager
def torchs_own_linear() -> Iterator[None]:
    """As in a fresh process: an engine at stage 3, of whoever called the doctor, leaves DeepSpeed's in its place."""
    standing, functional.linear = functional.linear, torch._C._nn.linear
    try:
        yield
    finally:
        functional.linear = standing


def train_and_ask(ranks: Ranks, recipe: Recipe) -> dict[str, Any]:
    """The trainer itself. It samples after its last validation, just before it saves: there its model is looked at.

    Its forward pass is made elsewhere: where DeepSpeed's stage 3 has been at work, torch's own layers round otherwise.
    """
    family, asked = family_of(recipe), {}

    def ask(model: torch.nn.Module, tokenizer: Any, of: Recipe) -> list[str]:
        batch = next(family.valid_batches(of, tokenizer, 0, 1))
        asked.update(inputs=batch.inputs(), dtype=next(model.parameters()).dtype, of_tokenizer=said_by(tokenizer),
                     weights={name: _whole(kept) for name, kept in (*model.named_parameters(), *counters(model))})
        return []

    train_quietly(ranks, recipe, replace(family, sample=ask, generated_scores=None))
    return asked


def hidden_states(family: Family, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By head, in evaluation mode; and what the model counts from step to step, which decides them, too."""
    device = next(model.parameters()).device
    with torch.no_grad():
        hidden = model.eval()(**{name: tensor.to(device) for name, tensor in inputs.items()}, keys_B=None)
    counted = {name: counter.cpu() for name, counter in counters(model)}
    return counted | {f"hidden states of head {head}": of_head.cpu()
                      for head, of_head in enumerate(family.anatomy.heads_of(hidden))}


def said_by(tokenizer: Any) -> dict[str, Any]:
    """What it, or each side's, makes of texts and back; where it encodes no text, what it calls its tokens."""
    if not hasattr(tokenizer, "encode") and not hasattr(tokenizer, "source"):
        names = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
        return {"the tokens": [tokenizer.vocab_size, tokenizer.eot], "the texts": names}
    found: dict[str, Any] = {}
    sides = {"the": tokenizer} if hasattr(tokenizer, "encode") else {
        f"the {side}'s": getattr(tokenizer, side) for side in ("source", "target")}
    for side, each in sides.items():
        ids = [each.encode(text).tolist() for text in TEXTS]
        found[f"{side} tokens"] = [each.vocab_size, each.eot, ids]
        found[f"{side} texts"] = [each.decode(of_text) for of_text in ids]
    return found


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    """Of a parameter or counter all values, in a row. At ZeRO stage 3 one rank alone holds a parameter's, but not
    always in the parameter itself."""
    values = parameter if parameter.numel() else parameter.ds_tensor
    return values.detach().cpu().reshape(-1)[:whole_shape(parameter).numel()].clone()


def rebuilt(away: Path, expected: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """(the answers of a fresh process in an empty folder, or None and what it died of)."""
    question, answer, empty = away / "question.pt", away / "answer.pt", away / "empty"
    empty.mkdir()
    torch.save({"inputs": expected["inputs"], "dtype": str(expected["dtype"]).removeprefix("torch.")}, question)
    root = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
                   "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}
    code = ("import sys; from dstrain.commands.use import load_trained; from dstrain.doctor.proofs.rebuild import use; "
            "use(load_trained, *sys.argv[1:])")
    try:
        done = subprocess.run([sys.executable, "-c", code, str(away / "checkpoint"), str(question), str(answer),
                               str(torch.get_num_threads())], cwd=empty, env=environment, capture_output=True,
                              text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise NotProven(f"the fresh process had no answer within {TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return None, last_line.removeprefix(f"{UserError.__module__}.UserError: ")
    return torch.load(answer, weights_only=True), ""


def use(load_trained: Callable[[Path, str], Any], checkpoint: str, question: str, answer: str, threads: str) -> None:
    """`load_trained` is what `dstrain eval` and generation begin with. In the precision in which was asked before."""
    torch.set_num_threads(int(threads))
    asked = torch.load(question, weights_only=True)
    with quietly():
        ready = load_trained(Path(checkpoint), "latest")
    model = ready.trainee.model.to(getattr(torch, asked["dtype"]))
    torch.save(hidden_states(ready.family, model, asked["inputs"]) | said_by(ready.tokenizer), answer)


def the_newest(checkpoints: Path) -> Path | None:
    return max((path for path in checkpoints.glob("step_*") if path.is_dir()), default=None)


def _moved(tokenizer: Any, old: Path, new: Path) -> Any:
    """The recipe's word for its tokenizer, or tokenizers, that stand in another folder now."""
    if isinstance(tokenizer, str):
        return str(new / Path(tokenizer).relative_to(old))
    return type(tokenizer)(**{side: _moved(getattr(tokenizer, side), old, new) for side in ("source", "target")})


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    return one == other
