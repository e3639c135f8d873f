"""The first loss is ln(vocabulary): nothing is known yet, and nothing is taken for known."""

from __future__ import annotations

import math

import torch

from dstrain.doctor.finding import Finding
from dstrain.doctor.model_proofs.law import count, nll_BT
from dstrain.doctor.model_proofs.probes import IGNORED, look, untouched
from dstrain.doctor.subject import Subject

CLAIM = "the first loss is ln(vocabulary) within its band, for each head"
ABOVE = 0.75
"""nats: logits spread by 1 cost half their variance, 0.5; T5 starts so, and nothing usual starts higher"""
BELOW = 0.05
"""nats: only who knows something is below"""
ERRORS = 4
"""standard errors of the mean, beside both: targets that are the same token say the same"""


def prove(subject: Subject) -> Finding:
    expected, means, causes, bands = math.log(subject.vocab_size), [], [], []
    with untouched(subject.module):
        features = look(subject, training=False).features
        for one, targets_BT in zip(features, subject.targets, strict=True):
            with torch.no_grad():
                losses = nll_BT(subject, one.double(), targets_BT)
            scored = losses[targets_BT != IGNORED]
            distinct = targets_BT[targets_BT != IGNORED].unique().numel()
            means.append(float(scored.mean()) if scored.numel() else math.nan)
            spread = min(1.0, float(scored.std(correction=0))) if scored.numel() else 0.0
            chance = ERRORS * spread / math.sqrt(max(1, distinct))
            bands.append((expected - BELOW - chance, expected + ABOVE + chance))
            causes += _cause(means[-1], expected, *bands[-1])
    figure = " ".join(f"{mean:.3f}" for mean in means) + f" nats over {count(subject.targets[0]):,} targets"
    low, high = min(low for low, _ in bands), max(high for _, high in bands)
    tolerance = (f"{low:.3f} to {high:.3f}: ln {subject.vocab_size:,} = {expected:.3f}, half a nat for logits spread "
                 f"by 1 and half as much again, and {ERRORS} standard errors of the mean")
    if not causes:
        return Finding(True, figure, tolerance)
    return Finding(False, figure, tolerance, causes[0][0], causes[0][1])


def _cause(mean: float, expected: float, lowest: float, highest: float) -> list[tuple[str, str]]:
    if mean < lowest:
        return [(f"{expected - mean:.2f} nats below what nobody can know: the target leaks into what it is predicted "
                 "from, or the weights are trained already", "see the proofs of the future and of the targets")]
    if mean <= highest:
        return []
    if math.isnan(mean):
        return [("not a number: nothing is scored, or the weights overflow", "look at labels and initial weights")]
    return [(f"{mean - expected:.2f} nats above: the start is sure of what it cannot know, with initial weights too "
             "large, of the output above all (an embedding of unit variance tied to it)",
             "initial weights with a standard deviation of about 0.02, and a norm before the output")]
