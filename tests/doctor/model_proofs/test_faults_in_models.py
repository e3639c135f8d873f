"""Each fault of a model is caught by the proof that is there for it, which says why; right models raise no alarm."""

from __future__ import annotations

import time

import pytest

from dstrain.doctor.examined import broke
from dstrain.doctor.faults.in_models import FAULTS, report_on
from dstrain.doctor.faults.toys import Decoder, EncoderDecoder, Moe, Packed, ThreeHeads, continued, evaluated, seeded

SAID = {
    "mask swallowed": "lengths: swallowed by a **kwargs on the way",
    "-100 as an input": "labels' -100 was written before the shift",
    "bidirectional mask": "an attention without a causal mask",
    "itself as memory": "a memory that holds the same positions",
    "expert choice": "something is chosen among all tokens of a row",
    "hidden by a zero": "an attention without a causal mask",
    "one place ahead": "an attention without a causal mask",
    "causal in training only": "in eval mode only",
    "told its targets": "logits are told their targets",
    "source not masked": "padding of source is attended to",
    "mask by id, encoder": "comparing ids with the pad's id",
    "mask by id, across": "comparing ids with the pad's id",
    "mask by id, decoder": "comparing ids with the pad's id",
    "places by width": "the amount of padding changes what is computed",
    "first row for all": "all rows follow the first one",
    "norm over rows": "something is summed, normalized or chosen over rows",
    "documents joined": "the mask does not know the documents' borders",
    "joined in evaluation": "in eval mode only",
    "ends not scored": "all 6 ends are not scored",
    "padding scored": "21 targets in padding are scored",
    "not shifted": "41 of 45 positions are scored with the token that stands there (not shifted)",
    "shifted twice": "31 of 45 positions learn the token 2 ahead instead of 1 (shifted twice)",
    "no start token": "all 6 first targets are not scored",
    "head's distance": "head 2: 35 of 39 positions learn the token 1 ahead instead of 2",
    "one count for heads": "head 2: every target counts 0.867 times: divided by the count of head 1, 45, and not by "
                           "its own, 39",
    "summed, not averaged": "8 times too large, a sum over accumulation or over ranks",
    "mean of means": "weights differ by row: 0.68 to 1.88 times the law's (a mean of means)",
    "summed in evaluation": "right in training mode, but in eval mode",
    "first loss too high": "nats above: the start is sure of what it cannot know",
    "requires_grad lost": "requires_grad was lost",
    "unused parameter": "built, and never used on the way to the loss",
    "frozen by bf16": "less than half a unit in the last place",
    "separator is padding": "an embedding's padding_idx is the id of real tokens",
    "backward by hand": "a backward written by hand that is not its forward's",
    "nothing arrives": "what is needed does not arrive",
    "cache forgets": "a cache with the wrong positions",
    "mode not restored": "an exception passes by",
    "never in eval mode": "eval() is never called",
}


def test_each_fault_has_its_own_words():
    assert [fault.name for fault in FAULTS] == list(SAID)
    assert len(set(SAID)) == len(FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_caught_and_its_cause_said(fault):
    began = time.process_time()
    finding = fault.attempt(None)
    assert time.process_time() - began < 5.0, "quick enough to be tried by everybody"
    assert not finding.passed, f"{fault.name}: {finding.figure}"
    assert not broke(finding), "a proof that breaks has caught nothing"
    assert SAID[fault.name] in finding.cause, finding.cause
    assert finding.remedy and finding.tolerance


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("build", [Decoder, ThreeHeads, Moe, EncoderDecoder, Packed])
def test_a_right_model_raises_no_alarm(build, seed):
    report = report_on(seeded(build, seed), first=10 * seed)
    assert report.passed, str(report)
    assert set(report.not_proven) == (set() if build is Packed else {"documents"})


@pytest.mark.parametrize("seed", range(5))
def test_a_right_evaluation_and_a_right_generation_raise_no_alarm(seed):
    report = report_on(seeded(Decoder, seed), first=10 * seed, only=["cache", "mode"], evaluate=evaluated,
                       generate=continued)
    assert report.passed, str(report)
    assert report["cache"].finding.figure.startswith("0 of ")
    assert not report["cache"].finding.figure.startswith("0 of 0")
