"""The proofs on models look in both directions, count what they looked at, and say where they saw nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstrain.doctor import prove
from dstrain.doctor.faults.in_models import report_on
from dstrain.doctor.faults.toys import (LONGEST, VOCAB, WIDTH, Decoder, Out, Packed, ThreeHeads, ahead, lm_batch,
                                        mean_nll, seeded)
from dstrain.doctor.faults.wrong_models import Bidirectional, ExpertChoice, IdMaskInDecoder, NormOverRows
from dstrain.doctor.finding import Finding
from dstrain.doctor.model_proofs.law import floor
from dstrain.doctor.model_proofs.probes import embeddings_of, other_tokens


def found(model: nn.Module, name: str) -> Finding:
    return report_on(model, only=[name])[name].finding


class OneHot(Decoder):
    """Its embedding is a matrix product: no call of F.embedding for these ids."""

    def embedded(self, ids: Tensor) -> Tensor:
        return F.one_hot(ids, VOCAB).float() @ self.embed.weight + self.places(torch.arange(ids.shape[1]))


class OneHotBidirectional(OneHot, Bidirectional):
    pass


class Blind(Decoder):
    def embedded(self, ids: Tensor) -> Tensor:
        return 0.0 * self.embed(ids) + self.places(torch.arange(ids.shape[1]))


def test_where_no_embedding_is_seen_the_future_is_proven_by_changes_alone():
    right, wrong = found(seeded(OneHot), "future"), found(seeded(OneHotBidirectional), "future")
    assert right.passed and right.figure.startswith("no embedding of these ids was seen, so no gradients were read")
    assert not wrong.passed and wrong.figure.startswith("no embedding of these ids was seen")


def test_what_sees_nothing_at_all_has_no_proven_future():
    finding = found(seeded(Blind), "future")
    assert not finding.passed and "no token of the row reaches any logit" in finding.cause


def test_the_choice_of_experts_is_seen_by_changes_only():
    finding = found(seeded(ExpertChoice), "future")
    assert finding.figure.startswith("0 of 668 gradients")
    assert not finding.passed


class SecondHeadLooksAhead(ThreeHeads):
    def forward(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> Out:
        x_BTC = self.hidden(ids, lengths)
        logits = tuple(output(x_BTC.roll(-1, 1) if number == 1 else x_BTC)
                       for number, output in enumerate(self.outputs))
        return Out(self.loss(logits, ids, lengths, labels), logits)


def test_the_future_is_looked_for_in_each_head():
    assert "(heads 2 of 3)" in found(seeded(SecondHeadLooksAhead), "future").cause


class LateLeak(Decoder):
    """A sum over the row that is a ten-thousandth of the rest: nothing that a loss would show."""

    def hidden(self, ids: Tensor, lengths: Tensor) -> Tensor:
        x_BTC = super().hidden(ids, lengths)
        return x_BTC + 1e-12 * x_BTC.mean(1, keepdim=True)


def test_the_least_leak_has_a_gradient():
    finding = found(seeded(LateLeak), "future")
    assert not finding.passed and "0 of 1,300 logits" in finding.figure


def test_a_batch_without_padding_proves_nothing_of_it():
    batch = {name: tensor[:, :5] if tensor.ndim == 2 else tensor.clamp(max=5) for name, tensor in lm_batch(0).items()}
    report = prove(seeded(Decoder), batch, ids="ids", lengths="lengths", only=["padding", "future"])
    assert report.not_proven == {"padding": "the batch has no padding"}
    assert report.passed and not report["padding"].passed


def test_a_batch_of_one_row_proves_nothing_of_neighbours():
    batch = {name: tensor[:1] for name, tensor in lm_batch(0).items()}
    report = prove(seeded(Decoder), batch, ids="ids", lengths="lengths", only=["neighbours"])
    assert report.not_proven == {"neighbours": "the batch has one row only"}
    assert not report.passed


def test_what_was_not_proven_alone_is_no_success():
    report = report_on(seeded(Decoder), only=["documents"])
    assert not report.passed and report.failed == []


def test_a_mask_by_ids_in_a_causal_row_is_seen_by_its_real_tokens():
    finding = found(seeded(IdMaskInDecoder), "padding")
    assert "6 of 12 real tokens with its id are not seen" in finding.figure


class PaddingInTheLoss(Decoder):
    """Clean logits, but a further term of the loss that reads padding."""

    def loss(self, logits: tuple[Tensor, ...], ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        return super().loss(logits, ids, lengths, labels) + 1e-3 * self.embed(ids).square().mean()


def test_padding_that_reaches_only_the_loss_is_found():
    finding = found(seeded(PaddingInTheLoss), "padding")
    assert not finding.passed and "21 of 21 gradients" in finding.figure


class MeanOverWidth(Decoder):
    """The loss is right in its contents, and hangs on how many positions the batch has."""

    def embedded(self, ids: Tensor) -> Tensor:
        return super().embedded(ids) * (ids.shape[1] / LONGEST)


def test_another_amount_of_padding_is_tried():
    finding = found(seeded(MeanOverWidth), "padding")
    assert not finding.passed and "the amount of padding" in finding.cause


class OtherThanItsLongest(Decoder):
    def embedded(self, ids: Tensor) -> Tensor:
        return super().embedded(ids) * (2.0 if ids.shape[1] < 10 else 1.0)


def test_rows_without_any_padding_are_tried_too():
    finding = found(seeded(OtherThanItsLongest), "padding")
    assert not finding.passed and "the amount of padding" in finding.cause


class MeanOverWiderOnes(Decoder):
    def embedded(self, ids: Tensor) -> Tensor:
        return super().embedded(ids) * (2.0 if ids.shape[1] > LONGEST else 1.0)


def test_more_padding_than_there_is_is_tried_too():
    finding = found(seeded(MeanOverWiderOnes), "padding")
    assert not finding.passed and "the amount of padding" in finding.cause


class Numbered(Decoder):
    """Each row knows its place in the batch."""

    def embedded(self, ids: Tensor) -> Tensor:
        return super().embedded(ids) * (1 + torch.arange(len(ids))[:, None, None])


def test_a_rows_place_in_the_batch_is_tried():
    finding = found(seeded(Numbered), "neighbours")
    assert not finding.passed and finding.figure.startswith("0 of 94 logits")
    assert "what a row gives depends on its place" in finding.cause


def test_every_neighbour_counts_in_a_norm_over_rows_and_none_in_eval_mode():
    assert found(seeded(NormOverRows), "neighbours").figure.startswith("94 of 94 logits")


class RunningNorm(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.BatchNorm1d(WIDTH)

    def hidden(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return self.rows(super().hidden(ids, lengths).flatten(0, 1)).unflatten(0, ids.shape)


def test_a_batch_norm_is_found_in_training_mode_and_its_statistics_stay_as_they_were():
    model = seeded(RunningNorm)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not found(model, "neighbours").passed
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert int(model.rows.num_batches_tracked) == 0


class LateLeakOfDocuments(Packed):
    """Less than a rounding error of all that stood before, in other documents as well."""

    def hidden(self, ids: Tensor, segments: Tensor) -> Tensor:
        x_BTC = super().hidden(ids, segments)
        return x_BTC + 1e-12 * x_BTC.cumsum(1)


class ChoiceAmongDocuments(Packed):
    """Which of two ways a row goes hangs on its first real token: no gradient says so."""

    def hidden(self, ids: Tensor, segments: Tensor) -> Tensor:
        x_BTC = super().hidden(ids, segments)
        return torch.where((ids[:, 1] > VOCAB // 2)[:, None, None], x_BTC, 1.5 * x_BTC)


def test_documents_are_told_apart_by_gradient_and_by_change():
    by_gradient, by_change = found(seeded(LateLeakOfDocuments), "documents"), found(seeded(ChoiceAmongDocuments),
                                                                                   "documents")
    assert not by_gradient.passed and "; 0 of 204 logits" in by_gradient.figure
    assert not by_change.passed and by_change.figure.startswith("0 of 102 gradients")


class SeldomUsed(Decoder):
    """A parameter that only other tokens than the batch's first one need, as an expert that nobody chose."""

    def __init__(self) -> None:
        super().__init__()
        self.seldom = nn.Parameter(torch.zeros(WIDTH))
        self.common = int(lm_batch(0)["ids"][0, 1])

    def embedded(self, ids: Tensor) -> Tensor:
        return super().embedded(ids) + self.seldom * (ids[0, 1] != self.common)


def test_what_other_tokens_need_is_no_dead_parameter():
    finding = found(seeded(SeldomUsed), "gradients")
    assert finding.passed, finding.figure


class Smoothed(Decoder):
    def loss(self, logits: tuple[Tensor, ...], ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits[0].flatten(0, 1), ahead(labels, 1).flatten(), label_smoothing=0.1)


def test_smoothing_is_the_laws_or_it_is_said():
    batch = lm_batch(0)
    how = {"ids": "ids", "lengths": "lengths"}
    assert prove(seeded(Smoothed), batch, smoothing=0.1, only=["targets", "by_heart"], **how).passed
    assert prove(seeded(Smoothed), batch, smoothing=0.0, only=["targets"], **how).failed == ["targets"]


def test_weights_of_heads_are_the_laws_or_it_is_said():
    def weighed(model: nn.Module, batch: dict[str, Tensor]) -> tuple:
        logits = model(**batch).logits
        return sum(w * mean_nll(one, ahead(batch["labels"], number + 1))
                   for number, (w, one) in enumerate(zip((1.0, 0.5, 0.25), logits))), logits

    how = {"run": weighed, "ids": "ids", "lengths": "lengths", "only": ["targets"]}
    assert prove(seeded(ThreeHeads), lm_batch(0), weights=(1.0, 0.5, 0.25), **how).passed
    report = prove(seeded(ThreeHeads), lm_batch(0), **how)
    assert "head 2: every target counts 0.500 times" in report["targets"].finding.cause


class RareIdsIgnored(Decoder):
    def loss(self, logits: tuple[Tensor, ...], ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        targets = ahead(labels, 1)
        return mean_nll(logits[0], targets.masked_fill(targets == 5, -100))


def test_targets_that_are_lost_by_their_id_are_told_by_it():
    lost = int((ahead(lm_batch(0)["labels"], 1) == 5).sum())
    cause = found(seeded(RareIdsIgnored), "targets").cause
    assert lost > 0 and f"{lost} of 45 targets are not scored: all of them the id 5" in cause


class HalfFrozen(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.embed.requires_grad_(False)


def test_what_is_meant_to_be_frozen_is_no_fault_and_is_said():
    how = {"ids": "ids", "lengths": "lengths", "only": ["gradients"]}
    assert prove(seeded(HalfFrozen), lm_batch(0), **how).failed == ["gradients"]
    report = prove(seeded(HalfFrozen), lm_batch(0), frozen=["embed.*"], **how)
    assert report.passed and "1 frozen as meant" in report["gradients"].finding.figure


class Detached(Decoder):
    def embedded(self, ids: Tensor) -> Tensor:
        return super().embedded(ids).detach()


def test_a_detached_part_is_named():
    assert "2 unused: embed.weight, places.weight" in found(seeded(Detached), "gradients").figure


class NotANumber(Decoder):
    """A square root at zero: right forwards, NaN backwards."""

    def hidden(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return super().hidden(ids, lengths) + (self.norm.weight * 0.0).sqrt()


def test_a_gradient_that_is_not_finite_is_named():
    assert "not finite: " in found(seeded(NotANumber), "gradients").figure


def test_the_first_loss_of_each_head_is_looked_at():
    model = seeded(ThreeHeads)
    with torch.no_grad():
        model.outputs[2].weight *= 60.0
    finding = found(model, "first_loss")
    first, second, third = (float(number) for number in finding.figure.split()[:3])
    assert not finding.passed and "nats above" in finding.cause
    assert third > first + 1 and third > second + 1


class Knowing(Decoder):
    """Its logits are told what comes next."""

    def forward(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> Out:
        out = super().forward(ids, lengths, labels)
        logits = out.logits[0] + 4.0 * F.one_hot(ahead(labels, 1).clamp(min=0), VOCAB)
        return Out(mean_nll(logits, ahead(labels, 1)), logits)


def test_a_first_loss_below_its_band_is_a_leak():
    finding = found(seeded(Knowing), "first_loss")
    assert not finding.passed and "the target leaks" in finding.cause


def test_equal_beginnings_set_the_least_loss():
    """Two rows that agree in their first token and part after it: half a chance each, ln 2 over all four targets."""
    from dstrain.doctor.foreign import Foreign, subject_of
    batch = {"ids": torch.tensor([[0, 1, 2], [0, 3, 2]]), "lengths": torch.tensor([3, 3]),
             "labels": torch.tensor([[0, 1, 2], [0, 3, 2]])}
    told = Foreign(None, "ids", "lengths", None, None, None, None, None, None, 0.0, None, (), False)
    subject = subject_of(seeded(Decoder), batch, told)
    assert floor(subject) == pytest.approx(2 * 0.6931472 / 4)


def test_other_tokens_are_other_and_known():
    ids = torch.tensor([[3, 3, 9], [9, 4, 3]])
    for seed in range(5):
        others = other_tokens(ids, seed)
        assert bool((others != ids).all()) and set(others.unique().tolist()) <= {3, 4, 9}


def test_an_embedding_is_caught_time_first_too_and_put_back():
    ids, embed, before = torch.tensor([[1, 2, 3], [4, 5, 6]]), nn.Embedding(9, 4), F.embedding
    with embeddings_of({"ids": ids}) as caught:
        embed(ids.T)
        embed(torch.tensor([7]))
    assert [across for _, across in caught.inputs["ids"]] == [True]
    assert F.embedding is before


def test_two_tensors_of_the_same_contents_are_not_taken_for_each_other():
    ids = torch.tensor([[1, 2, 3]])
    with embeddings_of({"ids": ids, "source": ids.clone()}) as caught:
        nn.Embedding(9, 4)(ids)
    assert caught.inputs == {}


def test_bit_equality_is_demanded_where_it_was_promised():
    class Rounding(Decoder):
        """The sum over other rows' contents comes in as a rounding error."""

        def hidden(self, ids: Tensor, lengths: Tensor) -> Tensor:
            x_BTC = super().hidden(ids, lengths)
            return x_BTC * (1 + 1e-7 * (ids.sum() % 7))

    how = {"ids": "ids", "lengths": "lengths", "only": ["neighbours"]}
    assert prove(seeded(Rounding), lm_batch(0), **how).passed
    assert prove(seeded(Rounding), lm_batch(0), exact=True, **how).failed == ["neighbours"]
    assert prove(seeded(Decoder), lm_batch(0), exact=True, **how).passed
