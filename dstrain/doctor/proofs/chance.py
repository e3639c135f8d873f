"""What is left to chance is: what is dropped, the order of the rows, the first weights, the shares of sources.

And the scores that only repeat a loss in other words do repeat it.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import replace
from itertools import islice

import torch

from dstrain.config.arc import PuzzleData
from dstrain.config.schema import Data, Recipe
from dstrain.config.shape import in_micro_batches
from dstrain.data.grids.sources import open_puzzles
from dstrain.doctor.case import Case
from dstrain.doctor.dropped import Dropped, alike, dropped_in_steps
from dstrain.doctor.finding import Finding, NotProven, largest, relative
from dstrain.doctor.fresh_engine import fresh_engine, validated
from dstrain.doctor.proofs.overlap import Looked, samples
from dstrain.runtime.dist import Ranks

CLAIM = ("dropout drops its share and keeps the mean, otherwise at each step; a seed decides rows, weights and masks; "
         "sources come by their weights; perplexity and bits per byte are the loss")
STEPS, ROW_STEPS, SHARE_STEPS = 2, 32, 48
WEIGHTS = 3.0, 1.0
MOST_TEXT = 10_000_000
FEW = 5
"""documents: fewer may well come in the same order twice"""
SIGMAS, MOST_ALIKE, SHARE_OFF = 6.0, 0.05, 0.1
SCALE_OFF = {"fp32": 1e-5, "bf16": 5e-3}
SCORES_OFF = 1e-9
NO_DROPOUT = "no module of the model drops anything in training, so dropout is not judged"


def prove(case: Case) -> Finding:
    faults, said = of_dropout(case)
    for part in (of_seeds, of_shares, of_scores):
        more, in_words = part(case)
        faults, said = faults + more, f"{said}; {in_words}"
    if not faults and said.startswith(NO_DROPOUT):
        raise NotProven(said)
    return Finding(
        not faults, said, f"the rate within {SIGMAS:.0f} standard deviations; of what two masks drop, the rate in "
        f"common, {MOST_ALIKE} off, more where little is dropped; the kept times 1 / (1 - rate), "
        f"{SCALE_OFF[case.precision]:.0e} off: rounding of {case.precision}; shares by {SHARE_OFF}: whole documents; "
        f"scores {SCORES_OFF:.0e}: float64",
        "; ".join(faults), "" if not faults else "a seed, a step number, a rate or a weight of the recipe does not "
        "arrive where it is needed: follow it from the recipe to that place")


def of_dropout(case: Case) -> tuple[list[str], str]:
    recipe, rate = in_micro_batches(case.recipe, None), case.recipe.model.dropout
    found, same, other = (case.ranks(1).run(dropped_in_steps, each, STEPS)[0]
                          for each in (recipe, recipe, _with_other_seed(recipe)))
    if not found.looked:
        return [], NO_DROPOUT
    allowed = SIGMAS * math.sqrt(rate * (1 - rate) / found.looked)
    scale_off = relative(found.scale, 1 / (1 - rate))
    common = _in_common(found, other)
    faults = [fault for fault, there in {
        f"a share of {found.rate:.4f} is dropped, not {rate}": abs(found.rate - rate) > allowed,
        f"what is kept comes out {found.scale:.4f} times as large, not {1 / (1 - rate):.4f}":
            not scale_off <= SCALE_OFF[case.precision],
        "the same seed drops something else": not _same_masks(found, same)}.items() if there]
    faults += [f"{what} and this one drop {share:.0%} in common" for what, (share, most_off) in common.items()
               if abs(share - rate) > most_off]
    return faults, (f"dropped {found.rate:.4f} of {found.looked:,} values ({rate} asked), the kept times "
                    f"{found.scale:.4f}; in common with "
                    f"{', '.join(f'{what} {share:.2f}' for what, (share, _) in common.items())}")


def of_seeds(case: Case) -> tuple[list[str], str]:
    """Rows of short documents, weights as the engine gets them."""
    short = _short(case, case.recipe)
    rows, same, other = (_rows(case, each) for each in (short, short, _with_other_seed(short)))
    weights, again, others = (case.ranks(1).run(first_weights, each)[0]
                              for each in (case.recipe, case.recipe, _with_other_seed(case.recipe)))
    drawn = [name for name, weight in weights.items() if weight.unique().numel() > 2]
    unchanged = [name for name in drawn if torch.equal(weights[name], others[name])]
    documents = _documents(short)
    faults = [fault for fault, there in {
        "the same seed gives other rows": rows != same,
        "another seed gives the same rows": rows == other and documents >= FEW,
        "the same seed gives other weights": any(not torch.equal(weights[name], again[name]) for name in weights),
        f"another seed gives the same weights: {', '.join(unchanged[:3])}": bool(unchanged),
        "no weight is drawn": not drawn}.items() if there]
    return faults, (f"another seed gives {sum(a != b for a, b in zip(rows, other))} of {len(rows)} steps other rows, "
                    f"{len(drawn) - len(unchanged)} of {len(drawn)} drawn parameters other weights")


def of_shares(case: Case) -> tuple[list[str], str]:
    """Of two sources, or of one that is there twice, with three times as much for the first."""
    short = _short(case, case.recipe)
    sources = (short.data.train * 2)[:2]
    sources = tuple(replace(source, weight=weight) for source, weight in zip(sources, WEIGHTS))
    short = replace(short, data=replace(short.data, train=sources))
    given = [0, 0]
    with closing(case.family.train_feed(short, case.tokenizer(), 0, 1, None)) as feed:
        for step in islice(feed, SHARE_STEPS):
            given = [sum(pair) for pair in zip(given, step.stats["targets_by_source"])]
    share, asked = given[0] / max(1, sum(given)), WEIGHTS[0] / sum(WEIGHTS)
    faults = [f"a source gets {share:.2f} of the targets, not {asked:.2f}"] if abs(share - asked) > SHARE_OFF else []
    return faults, f"a source of weight 3 to 1 gets {share:.2f}"


def of_scores(case: Case) -> tuple[list[str], str]:
    small = case.on_few_documents("scores")
    scores = case.ranks(1).run(validated, small)[0]
    tokenizer = case.tokenizer()
    bytes_of_token = torch.as_tensor(tokenizer.token_bytes(), dtype=torch.int64)
    labels = [batch.labels_BT[batch.labels_BT >= 0] for batch in case.family.valid_batches(small, tokenizer, 0, 1)]
    text_bytes = sum(int(bytes_of_token[each].sum()) for each in labels)
    loss = next(iter(scores["terms"].values())) if "terms" in scores else scores["loss"]
    nats = loss * sum(len(each) for each in labels)
    off = {"perplexity": relative(math.log(scores["perplexity"]), loss)}
    if text_bytes:
        off["bits_per_byte"] = relative(scores.get("bits_per_byte", math.nan) * math.log(2) * text_bytes, nats)
    faults = [f"{name} is not that of the loss ({error:.1e})" for name, error in off.items() if not error <= SCORES_OFF]
    return faults, f"{' and '.join(off)} {largest(off.values()):.1e} off the loss"


def first_weights(ranks: Ranks, recipe: Recipe) -> dict[str, torch.Tensor]:
    with fresh_engine(ranks, recipe) as (engine, _):
        return {f"{part.name} from {part.start}": part.weight.detach().clone().cpu()
                for part in engine.own_fragments()}


def _in_common(found: Dropped, other: Dropped) -> dict[str, tuple[float, float]]:
    """Which share of what one mask drops another drops, too, and how far off the rate that may be: when neither knows
    the other, it is the rate."""
    first, second = found.masks[0], found.masks[1]
    sites = [first[number] for number in sorted(first)]
    pairs = {
        "another step": [(first[number], second[number]) for number in first if number in second],
        "another seed": [(first[number], other.masks[0][number]) for number in first if number in other.masks[0]],
        "another row": [(mask[:-1], mask[1:]) for mask in sites if len(mask) > 1],
        "the next token": [(mask[:, :-1], mask[:, 1:]) for mask in sites if mask.ndim > 2],
        "another module": [(one, two) for one, two in zip(sites, sites[1:]) if one.ndim == two.ndim]}
    shares = {}
    for what, masks in pairs.items():
        counts = [alike(one, two) for one, two in masks]
        if dropped := sum(count for _, count in counts):
            shares[what] = sum(both for both, _ in counts) / dropped, max(MOST_ALIKE, 2 / math.sqrt(dropped))
    return shares


def _same_masks(one: Dropped, other: Dropped) -> bool:
    return all(a.keys() == b.keys() and all(torch.equal(a[number], b[number]) for number in a)
               for a, b in zip(one.masks, other.masks, strict=True))


def _rows(case: Case, recipe: Recipe) -> list[int]:
    with closing(case.family.train_feed(recipe, case.tokenizer(), 0, 1, None)) as feed:
        return [step.rows_hash for step in islice(feed, ROW_STEPS)]


def _documents(recipe: Recipe) -> int:
    """To train on; of puzzles the questions."""
    if isinstance(recipe.data, PuzzleData):
        return sum(map(len, open_puzzles(recipe.data, "train")))
    return sum(len(sample.ends) for sample in samples(recipe, "train", MOST_TEXT, Looked()))


def _short(case: Case, recipe: Recipe) -> Recipe:
    """On so few documents, all of them short, that a few steps hold several."""
    small = case.family.anatomy.excerpt(recipe, case.new_folder("short"), few=True)
    return replace(small, data=replace(small.data, lanes=1)) if isinstance(small.data, Data) else small


def _with_other_seed(recipe: Recipe) -> Recipe:
    return replace(recipe, run=replace(recipe.run, seed=recipe.run.seed + 1))
