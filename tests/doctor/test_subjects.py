"""What the proofs on models are given of a recipe: its own loss, on rows that may not see each other."""

from __future__ import annotations

from contextlib import closing

import pytest
import torch
import torch.nn.functional as F

from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe
from dstrain.doctor.case import Case
from dstrain.doctor.finding import NotProven
from dstrain.doctor.recipe_subject import parameters_of

RECIPES = {
    "lm": ("quickstart", []),
    "translate": ("numbers-en-de", ["tokenizer=bytes", "objective.label_smoothing=0.1", "batch.length=90",
                                    "model.positions=learned"])}


@pytest.fixture(scope="module", params=RECIPES)
def case(request):
    with closing(Case.of(load_recipe(*RECIPES[request.param]))) as small:
        yield small


def test_the_loss_is_that_of_the_logits_and_targets_with_dropout_that_repeats(case):
    subject = case.subject()
    seen, again = (subject.run(subject.module, subject.batch) for _ in range(2))
    assert torch.equal(seen.loss, again.loss) and case.recipe.model.dropout == 0.1 and subject.module.training
    features, = seen.features
    targets, = subject.targets
    logits = subject.logits_of(subject.module, features)
    assert logits.shape == (*targets.shape, subject.vocab_size)
    written_out = F.cross_entropy(logits.flatten(0, 1).double(), targets.flatten(), label_smoothing=subject.smoothing)
    assert float(seen.loss) == pytest.approx(float(written_out), rel=1e-6)
    assert subject.smoothing == case.family.anatomy.loss(case.recipe)[1]


def test_rows_have_padding_different_lengths_and_where_they_hold_documents_several(case):
    subject = case.subject()
    ids, lengths = subject.batch[subject.roles.ids], subject.lengths_B.tolist()
    assert len(ids) >= 2 and len(set(lengths)) >= 2 and max(lengths) < ids.shape[1]
    if subject.roles.segments:
        assert all(len(set(row[row >= 0].tolist())) == 2 for row in subject.batch[subject.roles.segments])
    if subject.roles.source:
        source_lengths = subject.source_lengths_B.tolist()
        assert len(set(source_lengths)) >= 2 and max(source_lengths) < subject.batch[subject.roles.source].shape[1]


def test_at_full_size_the_model_is_the_users_own_and_the_batch_small(case):
    full, small = case.full_subject(), case.subject()
    settings = full.module.model.settings
    assert settings == case.full.model and settings.width == 128 and small.module.model.settings.width == 32
    assert full.batch[full.roles.ids].numel() <= case.full.batch.length
    assert sum(p.numel() for p in full.module.parameters()) == parameters_of(case.full, case.family, case.tokenizer())


def test_what_does_not_fit_into_memory_is_said_and_not_tried(case, monkeypatch):
    monkeypatch.setattr("dstrain.doctor.recipe_subject.Memory.left_gib", lambda self: 0.001)
    with pytest.raises(NotProven, match="at full size: .*M parameters .* 0.0 GiB are free"):
        case.full_subject()


def test_a_mistake_in_a_source_of_pairs_is_named_by_its_place_in_the_recipe():
    with pytest.raises(UserError, match="data.valid.0.path: 'nowhere.tsv' matches no file"):
        Case.of(load_recipe("numbers-en-de", ["tokenizer=bytes", "data.valid=[{path: nowhere.tsv}]"]))


def test_a_vocabulary_a_side_is_saved_for_the_proofs():
    small = Case.of(load_recipe("numbers-en-de", ["tokenizer={source: bpe:300, target: bytes}"]))
    try:
        tokenizer = small.tokenizer()
        assert not tokenizer.shared and (tokenizer.source.vocab_size, tokenizer.target.vocab_size) == (300, 257)
        assert small.subject().vocab_size == 257
    finally:
        small.close()
