"""What is drawn is judged by its statistics: healthy draws pass at any rate and seed, small data are not blamed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dstrain.config.load import load_recipe
from dstrain.doctor.case import Case
from dstrain.doctor.faults import of_chance
from dstrain.doctor.faults.planting import planted, put
from dstrain.doctor.finding import NotProven
from dstrain.doctor.proofs import chance
from dstrain.nn.chance import KeyedDropout

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module", params=["quickstart", "numbers-en-de"])
def case(request):
    overrides = ["tokenizer=bytes"] if request.param == "numbers-en-de" else []
    found = Case.of(load_recipe(request.param, overrides))
    yield found
    found.close()


def other(case: Case, rate: float, seed: int) -> Case:
    recipe = case.recipe
    return replace(case, recipe=replace(recipe, model=replace(recipe.model, dropout=rate),
                                        run=replace(recipe.run, seed=seed)))


@pytest.mark.parametrize("rate, seed", [(0.01, 1), (0.3, 3), (0.9, 5)])
def test_any_rate_and_seed_is_within_the_bounds(case, rate, seed):
    faults, said = chance.of_dropout(other(case, rate, seed))
    assert not faults and f"({rate} asked)" in said and "another row" in said, (faults, said)


@pytest.mark.parametrize("seed", range(100, 102))
def test_another_seed_is_another_order_also_where_both_begin_alike(case, seed):
    assert chance.of_seeds(other(case, 0.1, seed))[0] == chance.of_shares(other(case, 0.1, seed))[0] == []


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_a_rate_that_is_halved_is_found_at_other_rates_too(case, rate):
    ill = other(case, rate, 1)
    with planted(ill, of_chance.half_as_much_dropped):
        faults, _ = chance.of_dropout(ill)
    assert faults and faults[0].startswith("a share of 0."), faults


def test_a_corpus_of_one_document_has_one_order(tmp_path):
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": "the only one of all texts " * 50}) + "\n")
    case = Case.of(load_recipe("quickstart", [f"data.train=[{{path: {tmp_path}/one.jsonl}}]", "data.valid=[]",
                                              "data.lanes=1", "tokenizer=bytes"]))
    try:
        finding = chance.prove(case)
    finally:
        case.close()
    assert finding.passed and "gives 0 of 32 steps other rows" in finding.figure, finding


def test_where_nothing_drops_dropout_is_not_proven(case):
    with planted(case, nothing_dropped), pytest.raises(NotProven, match="so dropout is not judged; another seed"):
        chance.prove(case)


def nothing_dropped() -> None:
    """As if the model had no such modules."""
    put(KeyedDropout, "training", property(lambda self: False, lambda self, value: None))
