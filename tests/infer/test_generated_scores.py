"""Scores of generated translations: right by hand, the same for any number of ranks, broken off on all together."""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace

import pytest
import torch
from translator_help import BOTH, model_of_bytes

from dstrain.config.errors import UserError
from dstrain.infer import scores as module
from dstrain.infer.scores import corpus_scores, generated_scores
from dstrain.infer.translate import translate
from dstrain.runtime.dist import lone_rank

PAIRS = [(f"{n} dogs" + " run" * (n % 4), f"{n} Hunde") for n in range(11)] + [("", ""), (" ", "x"), ("gone", "")]


class Thread:
    """One rank of several, each a thread: what generated_scores asks of runtime.dist.Ranks."""

    def __init__(self, rank: int, world: int, met: threading.Barrier, slots: list):
        self.rank, self.world, self.first, self.device = rank, world, rank == 0, torch.device("cpu")
        self._met, self._slots, self.rounds = met, slots, 0
        self.pulse = SimpleNamespace(enter=lambda *words: None)

    def gather(self, thing):
        self._slots[self.rank] = thing
        self._met.wait(30)
        things = list(self._slots)
        self._met.wait(30)
        return things

    def sum(self, tensor):
        self.rounds += 1
        return sum(self.gather(tensor))

    def share(self, thing):
        return self.gather(thing)[0]

    together = contextlib.contextmanager(lambda self, what: iter([None]))


def on_ranks(world: int, alone: bool, must_leave=lambda rank, rounds: False) -> list:
    met, slots, results = threading.Barrier(world), [None] * world, [None] * world
    ranks = [Thread(rank, world, met, slots) for rank in range(world)]

    def of(rank):
        results[rank.rank] = generated_scores(model_of_bytes().float(), BOTH, PAIRS, rank, 2, alone,
                                              lambda: must_leave(rank.rank, rank.rounds))

    threads = [threading.Thread(target=of, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def fives(monkeypatch):
    """Batches of 5 lines: of 14 pairs two have nothing to translate, so three of them."""
    monkeypatch.setattr(module, "BATCH", 5)


def test_scores_do_not_depend_on_the_number_of_ranks_to_the_bit(fives):
    alone = generated_scores(model_of_bytes().float(), BOTH, PAIRS, lone_rank(), 2, True)
    assert alone["chrf"] > 0.0 and alone["exact"] == pytest.approx(1 / 14)     # the empty one
    for world in (1, 2, 3, 5):
        assert on_ranks(world, True) == [alone] * world
    assert on_ranks(2, False) == [alone] * 2


def test_a_rank_translates_its_share_of_the_batches_alone_and_all_of_them_together(fives, monkeypatch):
    lines = []
    inner = module.translate_lines
    monkeypatch.setattr(module, "translate_lines", lambda model, tokenizer, some, *rest: lines.append(len(some))
                        or inner(model, tokenizer, some, *rest))
    on_ranks(2, True)
    assert sum(lines) == 12
    lines.clear()
    on_ranks(2, False)
    assert sum(lines) == 24


def test_all_ranks_break_off_together_when_one_must_leave(fives):
    for alone in (True, False):
        assert on_ranks(3, alone, lambda rank, rounds: rank == 1) == [None] * 3
    assert on_ranks(2, False, lambda rank, rounds: rank == 1 and rounds == 2) == [None] * 2
    assert None not in on_ranks(2, False, lambda rank, rounds: rounds > 2)


def test_hypotheses_are_scored_against_their_own_references_in_order(fives):
    model = model_of_bytes()
    hypotheses = [result.text for result in translate(model, BOTH, [source for source, _ in PAIRS], 2)]
    expected = corpus_scores(hypotheses, [target for _, target in PAIRS])
    assert generated_scores(model, BOTH, PAIRS, lone_rank(), 2, True) == expected
    perfect = list(zip([source for source, _ in PAIRS], hypotheses, strict=True))
    assert generated_scores(model, BOTH, perfect, lone_rank(), 2, True)["exact"] == 1.0


def test_every_mode_is_restored_whatever_happens(fives):
    model = model_of_bytes().train()
    model.dropout.eval()
    modes = [module.training for module in model.modules()]
    generated_scores(model, BOTH, PAIRS, lone_rank(), 1, True)
    assert [module.training for module in model.modules()] == modes
    assert generated_scores(model, BOTH, PAIRS, lone_rank(), 1, True, lambda: True) is None
    assert [module.training for module in model.modules()] == modes
    model.logits = lambda hidden: 1 / 0
    with pytest.raises(ZeroDivisionError):
        generated_scores(model, BOTH, PAIRS, lone_rank(), 1, True)
    assert [module.training for module in model.modules()] == modes


def test_bleu_chrf_and_exact_of_pairs_that_can_be_scored_by_hand():
    """Of 5 + 5 tokens one is wrong: precisions 9/10, 7/8, 5/6, 3/4, no brevity; BLEU is their geometric mean."""
    scores = corpus_scores(["a b c d e", "f g h i x"], ["a b c d e", "f g h i j"])
    assert scores["bleu"] == pytest.approx(100 * (9 / 10 * 7 / 8 * 5 / 6 * 3 / 4) ** 0.25)
    assert scores["exact"] == 0.5 and 70.0 < scores["chrf"] < 100.0
    same = corpus_scores(["Zwei Hunde laufen .", "Ein Mann ."], ["Zwei Hunde laufen .", "Ein Mann ."])
    assert (same["bleu"], same["chrf"], same["exact"]) == (pytest.approx(100.0), 100.0, 1.0)
    assert "tok:13a" in same["bleu_signature"] and "case:mixed" in same["bleu_signature"]
    assert "nc:6" in same["chrf_signature"] and "version:" in same["chrf_signature"]


def test_a_brief_translation_pays_for_it():
    """4 of 8 tokens, all right: exp(1 - 8/4) times 1."""
    assert corpus_scores(["a b c d"], ["a b c d e f g h"])["bleu"] == pytest.approx(100 * 2.718281828 ** -1.0)


def test_empty_translations_and_references_are_scored():
    assert corpus_scores(["", ""], ["a b", ""]) | {"bleu_signature": "", "chrf_signature": ""} == {
        "bleu": 0.0, "chrf": 0.0, "exact": 0.5, "bleu_signature": "", "chrf_signature": ""}
    assert corpus_scores(["a b c d", "x"], ["a b c d", ""])["exact"] == 0.5


def test_space_around_a_line_and_line_breaks_in_a_reference_are_no_mistake():
    assert corpus_scores([" a b"], ["a\nb "])["exact"] == 1.0


def test_nothing_to_score_is_said():
    with pytest.raises(UserError, match="data.valid holds no pairs"):
        generated_scores(model_of_bytes(), BOTH, [], lone_rank(), 1, True)
    with pytest.raises(UserError, match="1 translations for 2 references"):
        corpus_scores(["a"], ["a", "b"])
