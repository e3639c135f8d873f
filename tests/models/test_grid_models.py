"""The three kinds of puzzle models: what they may see, what they may not, and what they learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from grid_models_help import KINDS, a_row, batch_of, hidden_of, small_model

from dstrain.config.arc import ArcModel
from dstrain.config.presets import ARC_PRESETS
from dstrain.data.grids.grid_batch import collate_grids, filler_grids
from dstrain.data.grids.row import CHAMPION, DECODER, ENCODER_DECODER, row_of
from dstrain.data.grids.task import Example
from dstrain.models.decoder_lm import DecoderLm
from dstrain.models.grid_champion import GridChampion
from dstrain.models.seq2seq import Seq2Seq
from dstrain.nn.chance import row_keys
from dstrain.nn.grid_ids import VOCABULARY
from dstrain.objectives.next_token import NextToken
from dstrain.objectives.trainee import Trainee

ROWS = [a_row(1, shown=3), a_row(2, shown=1), a_row(3, shown=2)]
MILLIONS = {"tiny": 0.5, "small": 0.9, "base": 1.7, "large": 7.0}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", MILLIONS)
def test_presets_have_about_the_parameters_that_they_say(kind: str, preset: str):
    settings = ArcModel(kind=kind, preset=preset, **ARC_PRESETS[kind][preset])
    with torch.device("meta"):
        model = {DECODER: lambda: DecoderLm(settings, VOCABULARY, 2048),
                 ENCODER_DECODER: lambda: Seq2Seq(settings, VOCABULARY, VOCABULARY, True, 2048),
                 CHAMPION: lambda: GridChampion(settings, VOCABULARY, 2048)}[kind]()
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert 0.88 < millions / MILLIONS[preset] < 1.13


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_no_hidden_state_sees_what_is_written_later(kind: str, dropout: float):
    model, batch = small_model(kind, dropout), batch_of(ROWS, kind)
    before = hidden_of(model, batch)
    for t in range(1, batch.ids_BT.shape[1]):
        ids = batch.ids_BT.clone()
        ids[:, t:] = (ids[:, t:] + 3) % VOCABULARY
        assert torch.equal(hidden_of(model, replace(batch, ids_BT=ids))[:, :t], before[:, :t])
    ids = batch.ids_BT.clone()
    ids[:, 1] = (ids[:, 1] + 3) % 10
    assert not torch.equal(hidden_of(model, replace(batch, ids_BT=ids))[:, 1:], before[:, 1:])


@pytest.mark.parametrize("block", ["gelu", "swiglu"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_padding_and_in_other_rows_changes_no_bit(kind: str, block: str):
    model, batch = small_model(kind, 0.1, block), batch_of(ROWS, kind)
    before = hidden_of(model, batch)
    others = {"ids_BT": batch.ids_BT.clone()}
    for b, length in enumerate(batch.lengths_B.tolist()):
        others["ids_BT"][b, length:] = 10 + b
    if kind != DECODER:
        others["source_BS"] = batch.source_BS.clone()
        for b, length in enumerate(batch.source_lengths_B.tolist()):
            others["source_BS"][b, length:] = 10
    if kind == CHAMPION:
        grids = batch.context_BX.clone().view(*batch.context_lengths_BG.shape, -1)
        beyond = torch.arange(grids.shape[2]) >= batch.context_lengths_BG[..., None]
        others["context_BX"] = grids.masked_fill(beyond, 10).flatten(1)
    after = hidden_of(model, replace(batch, **others))
    exchanged = replace(batch, **{name: torch.cat([tensor[:1], (tensor[1:] + 1) % 10]) for name, tensor
                                  in batch.tensors().items() if name in ("ids_BT", "source_BS", "context_BX")})
    neighbours = hidden_of(model, exchanged)
    for b, length in enumerate(batch.lengths_B.tolist()):
        assert torch.equal(before[b, :length], after[b, :length])
    assert torch.equal(before[0, :batch.lengths_B[0]], neighbours[0, :batch.lengths_B[0]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_gives_what_it_gives_alone_without_padding(kind: str):
    """Grids of many shapes beside it, more demonstrations, longer answers: another shape rounds otherwise, no more."""
    model = small_model(kind, 0.1)
    rows = [a_row(seed, shown=1 + seed % 3) for seed in range(6)]
    together = batch_of(rows, kind)
    hidden = hidden_of(model, together)
    for b, row in enumerate(rows):
        alone = replace(batch_of([row], kind), rows_B=torch.tensor([b]))
        length = int(alone.lengths_B[0])
        assert length == int(together.lengths_B[b])
        assert (hidden_of(model, alone)[0] - hidden[b, :length]).abs().max() < 1e-12


def test_a_champion_takes_demonstrations_in_any_order_and_each_of_them_counts():
    model, row = small_model(CHAMPION), a_row(5, shown=4)
    hidden = hidden_of(model, batch_of([row], CHAMPION))
    for order in ((3, 1, 0, 2), (1, 0, 2, 3)):
        turned = replace(row, shown=tuple(row.shown[place] for place in order))
        assert (hidden_of(model, batch_of([turned], CHAMPION)) - hidden).abs().max() < 1e-12
    for place in range(4):
        fewer = replace(row, shown=(*row.shown[:place], *row.shown[place + 1:]))
        assert (hidden_of(model, batch_of([fewer], CHAMPION)) - hidden).abs().max() > 1e-6
    swapped = replace(row, shown=(row.shown[0][::-1], *row.shown[1:]))
    assert (hidden_of(model, batch_of([swapped], CHAMPION)) - hidden).abs().max() > 1e-6


def test_an_output_knows_its_own_input_and_not_another_demonstration_s():
    """Two demonstrations exchange their outputs: a bag of grids would not notice."""
    model, row = small_model(CHAMPION), a_row(6, shown=2)
    (first, became), (second, was) = row.shown
    crossed = replace(row, shown=((first, was), (second, became)))
    assert (hidden_of(model, batch_of([crossed], CHAMPION)) - hidden_of(model, batch_of([row], CHAMPION))
            ).abs().max() > 1e-6


@pytest.mark.parametrize("kind, sees", [(DECODER, True), (ENCODER_DECODER, False), (CHAMPION, True)])
def test_demonstrations_are_seen_by_the_kinds_that_are_shown_them(kind: str, sees: bool):
    model, row = small_model(kind), a_row(7, shown=2)
    other = replace(row, shown=(a_row(8, shown=1).shown[0], row.shown[1]))
    answers = [hidden_of(model, batch_of([shown], kind))[0, -len(row.answer):] for shown in (row, other)]
    assert torch.equal(*answers) != sees


def test_a_decoder_s_demonstrations_stand_in_an_order():
    model, row = small_model(DECODER), a_row(5, shown=2)
    turned = replace(row, shown=row.shown[::-1])
    answers = [hidden_of(model, batch_of([one], DECODER))[0, -len(row.answer):] for one in (row, turned)]
    assert (answers[0] - answers[1]).abs().max() > 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_every_parameter_takes_part_in_a_row_in_a_filler_and_where_nothing_is_shown(kind: str, checkpointed: bool):
    model = small_model(kind, 0.1)
    model.settings = replace(model.settings, checkpoint_activations=checkpointed)
    trainee = Trainee(model.train(), NextToken())
    for batch in (batch_of(ROWS, kind), filler_grids(kind), batch_of([replace(ROWS[0], shown=())], kind)):
        sums = trainee(inputs=batch.inputs(), labels_BT=batch.labels_BT, keys_B=row_keys(1, 1, batch.rows_B))
        grads = torch.autograd.grad(sums.nll.sum(), list(model.parameters()))
        assert all(bool(torch.isfinite(grad).all()) for grad in grads)
    sums = trainee(inputs=batch_of(ROWS, kind).inputs(), labels_BT=batch_of(ROWS, kind).labels_BT,
                   keys_B=row_keys(1, 1, batch_of(ROWS, kind).rows_B))
    missing = [name for (name, _), grad in zip(model.named_parameters(), torch.autograd.grad(
        sums.nll.sum(), list(model.parameters()))) if not bool(grad.any())]
    assert missing == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_cache_gives_is_what_whole_passes_give(kind: str):
    """Answers of three rows written side by side, in chunks of 1 to 3 ids, on prompts of different sizes."""
    model, rows = small_model(kind).eval(), [a_row(seed, shown=2) for seed in range(3)]
    batch = batch_of(rows, kind)
    whole = hidden_of(model, batch)
    cache, memory = model.new_cache(3, 200), ()
    if kind == ENCODER_DECODER:
        memory = (model.encode(batch.source_BS, batch.source_lengths_B),)
    if kind == CHAMPION:
        memory = (model.encode(batch.source_BS, batch.source_lengths_B, batch.context_BX, batch.context_lengths_BG),)
    done = torch.zeros(3, dtype=torch.long)
    while bool((done < batch.lengths_B).any()):
        sizes = torch.minimum(torch.tensor([1, 2, 3]), batch.lengths_B - done)
        chunk = torch.stack([batch.ids_BT[b, (start + torch.arange(3)).clamp(max=batch.ids_BT.shape[1] - 1)]
                             for b, start in enumerate(done.tolist())])
        found = model.extend(chunk, sizes, cache, *memory)
        for b, (start, size) in enumerate(zip(done.tolist(), sizes.tolist())):
            if size:
                assert float((found[b, :size] - whole[b, start:start + size]).detach().abs().max()) < 1e-12
        done = done + sizes


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_one_cell_are_learned_with_their_first_cell_and_their_end(kind: str):
    """The answer is the input's most frequent colour, a grid of 1 x 1: three ids, of which the first is that colour."""
    torch.manual_seed(0)
    model = small_model(kind, dtype=torch.float32)
    grids = [np.full((2, 2), colour, np.uint8) for colour in range(4)]
    rows = [row_of([Example(grids[(n + 1) % 4], grids[(n + 1) % 4][:1, :1])], Example(grid, grid[:1, :1]))
            for n, grid in enumerate(grids)]
    batch = batch_of(rows, kind)
    trainee, optimizer = Trainee(model, NextToken()), torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        loss = trainee(inputs=batch.inputs(), labels_BT=batch.labels_BT, keys_B=None).nll.sum() / 12
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    best = model.logits(hidden_of(model, batch)).argmax(-1)
    assert (batch.labels_BT >= 0).sum() == 12 and float(loss.detach()) < 0.1
    assert torch.equal(best[batch.labels_BT >= 0], batch.labels_BT[batch.labels_BT >= 0])


def test_demonstrations_that_nothing_is_known_of_are_not_asked_for():
    """Rows with three, one and no demonstration in one batch, and none in any."""
    model, row = small_model(CHAMPION), a_row(9, shown=3)
    rows = [row, replace(row, shown=row.shown[:1]), replace(row, shown=())]
    hidden = hidden_of(model, collate_grids(rows, [0, 0, 0], CHAMPION))
    for b, one in enumerate(rows):
        assert (hidden_of(model, collate_grids([one], [0], CHAMPION))[0] - hidden[b]).abs().max() < 1e-12
    assert bool(torch.isfinite(hidden).all())
