"""What may not be seen changes nothing, to the bit: on the device, in every precision, with every backend that runs."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch
from attention import BACKENDS
from case_here import CaseHere
from frame import Here, Outcome, judge
from torch.nn.attention import sdpa_kernel

from dstrain.data.tokenizers.tokenizer import load_tokenizer
from dstrain.families import family_of
from dstrain.nn.chance import row_keys
from dstrain.runtime.engine import fill_weights

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def show(here: Here) -> Outcome:
    recipe = CaseHere.of(here).recipe
    family, tokenizer = family_of(recipe), load_tokenizer(recipe.tokenizer)
    batch = family.anatomy.intruded(recipe, tokenizer)
    trainee = family.build_trainee(recipe, tokenizer)
    fill_weights(trainee, lambda name, shape: family.initial_weight(trainee.model, name, shape, recipe.run.seed))
    figures, holds = {}, {}
    for precision, dtype in DTYPES.items():
        model = trainee.model.to(here.device, dtype).train()
        for backend in (None, *BACKENDS):
            where = f"{precision}, {backend or 'default'}"
            try:
                changed, watched, noticed = _leaks(here, model, batch, tokenizer, backend)
            except RuntimeError as refusal:
                if backend is None:
                    raise
                figures[where] = f"refuses: {str(refusal).splitlines()[0]}"
                continue
            figures[where] = {"changed": changed, "positions_watched": watched}
            holds |= {f"{where}: {what} changes {count} hidden states": count == 0 for what, count in changed.items()}
            holds[f"{where}: the model does not notice a change of what it may see"] = noticed
    return judge(here, holds, figures, "none, to the bit; and a change of what may be seen is noticed")


def _leaks(here: Here, model: torch.nn.Module, batch, tokenizer, backend: str | None
           ) -> tuple[dict[str, int], int, bool]:
    """(positions that changed, by what was changed; positions watched; whether an allowed change shows)."""
    before_BTD, changed, watched = _hidden(here, model, batch, backend), {}, 0
    for what, changed_BT, watched_BT in _intrusions(batch):
        other = replace(batch, ids_BT=torch.where(changed_BT, (batch.ids_BT + 1) % tokenizer.vocab_size, batch.ids_BT))
        differs_BT = (_hidden(here, model, other, backend) != before_BTD).any(dim=-1).cpu()
        changed[what] = int((differs_BT & watched_BT).sum())
        watched += int(watched_BT.sum())
    allowed = replace(batch, ids_BT=(batch.ids_BT + 1) % tokenizer.vocab_size)
    return changed, watched, not torch.equal(_hidden(here, model, allowed, backend), before_BTD)


def _intrusions(batch) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """(what intrudes, where ids are changed, which scored positions must not notice)."""
    scored_BT = batch.labels_BT != -100
    slots_T = torch.arange(batch.ids_BT.shape[1])
    padding_BT = slots_T >= batch.lengths_B[:, None]
    first_row_BT = torch.zeros_like(scored_BT)
    first_row_BT[0] = True
    middle_BT = torch.where(batch.segments_BT == 0, batch.positions_BT >= 3, False)
    return [("padding", padding_BT, scored_BT),
            ("an earlier document of the row", batch.segments_BT == 0, scored_BT & (batch.segments_BT != 0)),
            ("a later document of the row", batch.segments_BT == 1, scored_BT & (batch.segments_BT == 0)),
            ("another row", first_row_BT, scored_BT & ~first_row_BT),
            ("a later token", middle_BT, scored_BT & (batch.segments_BT == 0) & ~middle_BT)]


def _hidden(here: Here, model: torch.nn.Module, batch, backend: str | None) -> torch.Tensor:
    batch = batch.to(here.device)
    with torch.no_grad(), nullcontext() if backend is None else sdpa_kernel([BACKENDS[backend]]):
        return model(**batch.inputs(), keys_B=row_keys(1, 1, batch.rows_B)).hidden_BTD
