"""Answers to puzzles: always grids, the most likely ones, and the same whatever stands beside a prompt."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from grid_help import KINDS, allowed_after, example, grid, model_of, plain_answer, some_prompts

from dstrain.data.grids.prompt import Prompt
from dstrain.data.grids.row import DECODER, ENCODER_DECODER, row_of
from dstrain.data.grids.tokens import END, LONGEST, ROW_END, START, VOCABULARY, grid_of
from dstrain.infer import grid_answers
from dstrain.infer.grid_answers import Answered, answer_prompts, limit_of, size_batches
from dstrain.infer.grid_spelling import Spelling

PROMPTS = some_prompts(13)


def prompt(query: str) -> Prompt:
    """Without demonstrations."""
    return Prompt(row_of([], example(query, None)))


def same(found: Answered, other: Answered) -> bool:
    grids = found.grid is other.grid if found.grid is None or other.grid is None else np.array_equal(
        found.grid, other.grid)
    return grids and found.logprob == pytest.approx(other.logprob, abs=1e-9) and found[2:] == other[2:]


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_what_whole_forward_passes_choose(kind):
    model = model_of(kind)
    answers = answer_prompts(model, PROMPTS, kind)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids, logprob = plain_answer(model, prompt, kind, limit_of(prompt, kind, model.length))
        assert len(ids) == answer.tokens and answer.logprob == pytest.approx(logprob, abs=1e-9)
        assert np.array_equal(answer.grid, grid_of(ids)) if END in ids else answer.grid is None
    grids = [answer.grid for answer in answers if answer.grid is not None]
    assert len(grids) > 7 and len({(grid.shape, grid.tobytes()) for grid in grids}) > 6


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_batches_and_order_change_no_answer(kind, monkeypatch):
    model = model_of(kind)
    together = answer_prompts(model, PROMPTS, kind)
    alone = [answer_prompts(model, [prompt], kind)[0] for prompt in PROMPTS]
    assert all(map(same, alone, together))
    order = random.Random(2).sample(range(len(PROMPTS)), len(PROMPTS))
    for rows, positions in ((5, 700), (64, 400)):
        monkeypatch.setattr(grid_answers, "BATCH_ROWS", rows)
        monkeypatch.setattr(grid_answers, "BATCH_POSITIONS", positions)
        mixed = answer_prompts(model, [PROMPTS[n] for n in order], kind)
        assert all(same(mixed[place], together[n]) for place, n in enumerate(order))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", (1.0, 30.0))
def test_random_weights_never_spell_a_ragged_grid(kind, spread):
    """`grid_of` gives no grid where rows differ, are empty or more than 30."""
    for seed in range(2):
        model = model_of(kind, length=150, seed=seed, dtype=torch.float32, spread=spread)
        for prompt, answer in zip(PROMPTS, answer_prompts(model, PROMPTS, kind), strict=True):
            assert answer.grid is not None or answer.tokens == limit_of(prompt, kind, 150)


def spelt(prefer) -> list[int]:
    """The ids that a choice among the allowed ones writes."""
    spelling, written = Spelling(1, torch.device("cpu")), []
    while END not in written:
        allowed = spelling.allowed_BV()[0].nonzero().flatten().tolist()
        assert allowed == allowed_after(written)
        written.append(prefer(allowed))
        spelling.take(torch.tensor(written[-1:]))
    return written


def test_the_smallest_grid_is_a_cell_and_the_largest_has_30_of_30_cells():
    assert spelt(max) == [9, ROW_END, END]
    largest = spelt(min)
    assert len(largest) == LONGEST == 931 and grid_of(largest).shape == (30, 30)


def test_whatever_is_chosen_among_the_allowed_ids_is_a_grid():
    chance, shapes = random.Random(1), set()
    for _ in range(40):
        ends = chance.random()
        shapes.add(grid_of(spelt(lambda allowed: allowed[-1] if chance.random() < ends else chance.choice(
            allowed))).shape)
    assert len(shapes) > 10 and (1, 1) in shapes


def test_no_other_id_may_come_and_each_row_has_its_own_state():
    spelling = Spelling(3, torch.device("cpu"))
    assert spelling.allowed_BV().shape == (3, VOCABULARY)
    for ids in ((1, 2, 3), (ROW_END, 4, ROW_END), (5, ROW_END, END)):
        assert all(spelling.allowed_BV()[row, number] for row, number in enumerate(ids))
        spelling.take(torch.tensor(ids))
    cells = list(range(10))
    assert [row.nonzero().flatten().tolist() for row in spelling.allowed_BV()[:2]] == [[ROW_END], [*cells, END]]
    spelling.keep(torch.tensor([1]))
    assert spelling.allowed_BV()[0].nonzero().flatten().tolist() == [*cells, END]


class Recites(torch.nn.Module):
    """Writes the query again, as many ids at a time as it is asked for: logits 3 for the next one, 2 for START."""

    def __init__(self, length: int = 200):
        super().__init__()
        self.weight, self.length = torch.nn.Parameter(torch.zeros(())), length

    def encode(self, source_BS, source_lengths_B):
        return Source(source_BS)

    def new_cache(self, rows, capacity):
        self.capacity, self.at = capacity, Source(torch.zeros(rows, 1, dtype=torch.long))
        return self.at

    def extend(self, ids_BT, lengths_B, cache, memory):
        hidden = torch.nn.functional.one_hot(memory.ids_BS.gather(1, cache.ids_BS), VOCABULARY).float()
        cache.ids_BS += 1
        cache.ids_BS.clamp_(max=memory.ids_BS.shape[1] - 1)
        return hidden

    def logits(self, hidden):
        logits_BV = 3.0 * hidden
        logits_BV[:, START] = 2.0
        return logits_BV


class Source:
    def __init__(self, ids_BS):
        self.ids_BS = ids_BS

    def of_rows(self, rows_N):
        return Source(self.ids_BS[rows_N])

    def pick(self, rows_N):
        self.ids_BS = self.ids_BS[rows_N]


def test_log_p_is_of_all_ids_and_the_end_counts():
    """p of each id is e^3 / (e^3 + e^2 + 12 e^0) of 14 ids; a grid of 2 x 3 has 9 ids."""
    answer, = answer_prompts(Recites(), [prompt("123 456")], ENCODER_DECODER)
    assert np.array_equal(answer.grid, grid("123", "456")) and answer.tokens == 9 and answer.ties == 0
    e = float(np.e)
    assert answer.logprob == pytest.approx(9 * np.log(e**3 / (e**3 + e**2 + 12)))


def test_a_choice_between_equals_is_counted_and_one_without_a_choice_is_not():
    """All logits of cells are equal: of a grid of one column each cell but no row end is a choice."""
    model = Recites()
    model.logits = lambda hidden: torch.tensor([[0.0] * 10 + [5.0, 9.0, 4.0, 9.0]]).repeat(len(hidden), 1)
    answer, = answer_prompts(model, [prompt("1")], ENCODER_DECODER)
    assert answer.grid.shape == (1, 1) and (answer.tokens, answer.ties) == (3, 1)


def test_an_answer_without_an_end_within_its_limit_is_none():
    """A 3 x 3 grid has 13 ids."""
    asked = prompt("123 456 789")
    assert answer_prompts(Recites(13), [asked], ENCODER_DECODER)[0].grid is not None
    cut, = answer_prompts(Recites(12), [asked], ENCODER_DECODER)
    assert cut.grid is None and cut.tokens == 12


def test_an_answer_has_no_more_ids_than_its_prompt_allows():
    """A 3 x 3 grid has 13 ids."""
    for most, tokens in ((13, 13), (12, 12)):
        answer, = answer_prompts(Recites(), [prompt("123 456 789")._replace(most=most)], ENCODER_DECODER)
        assert answer.tokens == tokens and (answer.grid is None) == (most == 12)


def test_a_decoder_has_as_many_positions_for_an_answer_as_its_prompt_leaves():
    """START, two cells, a row end and SEPARATOR are read, and of the answer all but its end."""
    asked = prompt("12")
    assert len(asked.row.sequence()) == 5
    assert limit_of(asked, DECODER, 10) == 6 and limit_of(asked, ENCODER_DECODER, 10) == 10
    assert limit_of(asked, DECODER, 5000) == limit_of(asked, ENCODER_DECODER, 5000) == LONGEST
    model = model_of(DECODER, length=11)
    answer, = answer_prompts(model, [asked], DECODER)
    assert answer.tokens <= 7
    assert answer_prompts(model, [asked, prompt("1" * 8)], DECODER)[1] == Answered()   # 11 of 11 are taken


def test_a_question_without_a_row_has_no_answer():
    model = model_of(ENCODER_DECODER)
    found = answer_prompts(model, [None, PROMPTS[0], None], ENCODER_DECODER)
    assert found[0] == found[2] == Answered() and same(found[1], answer_prompts(model, PROMPTS[:1], ENCODER_DECODER)[0])
    assert answer_prompts(model, [], ENCODER_DECODER) == []


def test_batches_hold_rows_of_like_size_and_no_more_positions_than_they_may(monkeypatch):
    monkeypatch.setattr(grid_answers, "BATCH_ROWS", 4)
    monkeypatch.setattr(grid_answers, "BATCH_POSITIONS", 700)
    batches = size_batches([*PROMPTS, None], DECODER, 200)
    sizes = [[PROMPTS[n].row.size(DECODER) + limit_of(PROMPTS[n], DECODER, 200) for n in batch] for batch in batches]
    assert sorted(n for batch in batches for n in batch) == list(range(len(PROMPTS)))
    assert [size for batch in sizes for size in batch] == sorted(size for batch in sizes for size in batch)
    assert all(len(batch) <= 4 and len(batch) * batch[-1] <= 700 for batch in sizes) and len(batches) > 3


def test_every_mode_is_restored_and_dropout_is_off():
    model = model_of(DECODER).train()
    model.embed_dropout.eval()
    modes = [module.training for module in model.modules()]
    first = answer_prompts(model, PROMPTS, DECODER)
    assert all(map(same, first, answer_prompts(model.eval(), PROMPTS, DECODER)))
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training
    model.logits = lambda hidden: 1 / 0
    with pytest.raises(ZeroDivisionError):
        answer_prompts(model, PROMPTS, DECODER)
    assert [module.training for module in model.modules()] == modes
