"""Faults of models and of what is written around them, each planted into a small model and judged by one proof."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dstrain.doctor.faults import wrong_models as wrong
from dstrain.doctor.faults.fault import Fault
from dstrain.doctor.faults.toys import (END, Decoder, EncoderDecoder, Packed, lm_batch, packed_batch,
                                        pair_batch, seeded)
from dstrain.doctor.finding import Finding
from dstrain.doctor.library import Report, prove

Evaluate = Callable[[nn.Module], Any]
Generate = Callable[[nn.Module, dict[str, Tensor], int], Tensor]


def report_on(model: nn.Module, first: int = 0, only: list[str] | None = None, evaluate: Evaluate | None = None,
              generate: Generate | None = None) -> Report:
    """The proofs on a small model of this folder, with batches of its kind from number `first` on."""
    if isinstance(model, EncoderDecoder):
        return prove(model, lambda number: pair_batch(first + number), ids="ids", lengths="lengths", source="source",
                     source_lengths="source_lengths", end=END, only=only)
    if isinstance(model, Packed):
        batch = packed_batch(first)
        return prove(model, batch, ids="ids", segments="segments", lengths=(batch["segments"] >= 0).long(),
                     targets=lambda batch: packed_batch(first)["labels"], only=only)
    return prove(model, lambda number: lm_batch(first + number), ids="ids", lengths="lengths", only=only,
                 evaluate=evaluate, generate=generate)


def _judged(build: type[nn.Module], proof: str, evaluate: Evaluate | None, generate: Generate | None) -> Finding:
    finding = report_on(seeded(build), only=[proof], evaluate=evaluate, generate=generate)[proof].finding
    assert finding is not None, f"the proof {proof} could not be tried on {build.__name__}"
    return finding


def _fault(name: str, looked: str, proof: str, build: type[nn.Module], evaluate: Evaluate | None = None,
           generate: Generate | None = None) -> Fault:
    return Fault(name, looked, proof, lambda case: _judged(build, proof, evaluate, generate))


FAULTS: tuple[Fault, ...] = (
    _fault("mask swallowed", "a wrapper's forward(ids, labels, **kwargs): the mask never arrives", "arguments",
           wrong.SwallowedMask),
    _fault("-100 as an input", "labels lose their padding before the shift: an id that no embedding has", "arguments",
           wrong.IgnoredBeforeTheShift),
    _fault("bidirectional mask", "a decoder with an encoder's mask: losses far too good", "future",
           wrong.Bidirectional),
    _fault("itself as memory", "a cross-attending layer fed with its own row, memory without a mask", "future",
           wrong.OwnMemory),
    _fault("expert choice", "each expert takes its top tokens of the row: later ones decide who goes where", "future",
           wrong.ExpertChoice),
    _fault("hidden by a zero", "no causal mask behind a gate that starts at zero: right until the first step", "future",
           wrong.GatedAtZero),
    _fault("one place ahead", "a mask that is off by one at one place", "future", wrong.OnePlaceAhead),
    _fault("causal in training only", "evaluation has another path, without the mask", "future",
           wrong.CausalInTrainingOnly),
    _fault("told its targets", "labels are embedded beside the ids", "future", wrong.ToldItsTargets),
    _fault("source not masked", "an encoder without a mask: a sentence's translation hangs on its neighbours' length",
           "padding", wrong.UnmaskedSource),
    _fault("mask by id, encoder", "source != pad: the real end of each source is masked", "padding",
           wrong.IdMaskInEncoder),
    _fault("mask by id, across", "source != pad between decoder and encoder", "padding", wrong.IdMaskAcross),
    _fault("mask by id, decoder", "ids != pad in the decoder's own attention: its start token is masked", "padding",
           wrong.IdMaskInDecoder),
    _fault("places by width", "positions counted by one width: another batch shape moves all tokens", "padding",
           wrong.PlacesFromTheEnd),
    _fault("first row for all", "the first row's shape is used for the whole batch", "neighbours",
           wrong.FirstRowsShape),
    _fault("norm over rows", "a BatchNorm in a Transformer", "neighbours", wrong.NormOverRows),
    _fault("documents joined", "a causal mask that does not know where documents begin", "documents",
           wrong.JoinedDocuments),
    _fault("joined in evaluation", "the documents' borders are known in training mode only", "documents",
           wrong.JoinedInEvaluation),
    _fault("ends not scored", "ignore_index is the pad's id, which is end of text too: never learns to end", "targets",
           wrong.EndsIgnored),
    _fault("padding scored", "padding counts as targets: easy ones, so the loss looks better", "targets",
           wrong.PaddingScored),
    _fault("not shifted", "position i is predicted while it is seen: loss 1e-5 within an epoch", "targets",
           wrong.NotShifted),
    _fault("shifted twice", "once in the data, once in the model", "targets", wrong.ShiftedTwice),
    _fault("no start token", "a decoder fed with its own targets: the first one is never learned", "targets",
           wrong.NoStart),
    _fault("head's distance", "the second head learns t+1 instead of t+2", "targets", wrong.HeadOneAhead),
    _fault("one count for heads", "deeper heads divided by the first head's number of targets", "targets",
           wrong.OneCountForAll),
    _fault("summed, not averaged", "the loss of 8 micro-batches added up: 87.97 for a true 11.00", "targets",
           wrong.SummedOverAccumulation),
    _fault("mean of means", "each row's own mean, then the mean of these", "targets", wrong.MeanOfMeans),
    _fault("summed in evaluation", "a mean in training, a sum in validation: no two of them can be compared", "targets",
           wrong.SummedInEvaluation),
    _fault("first loss too high", "initial weights far too large: starts at many times ln(vocabulary)", "first_loss",
           wrong.FirstLossTooHigh),
    _fault("requires_grad lost", "weights copied under no_grad: a layer stays as it was", "gradients",
           wrong.GradientLost),
    _fault("unused parameter", "a norm that is built and left out of the forward pass", "gradients", wrong.Unused),
    _fault("frozen by bf16", "model.to(bf16): norms stand still, for a step is lost in numbers around 1", "gradients",
           wrong.Halved),
    _fault("separator is padding", "the separator has the pad's id, whose embedding is never trained", "gradients",
           wrong.SeparatorIsPadding),
    _fault("backward by hand", "a fast activation with the gradient of another one: it learns, and less well",
           "derivative", wrong.BackwardByHand),
    _fault("nothing arrives", "what attention finds is thrown away: the loss sinks a little and stands", "by_heart",
           wrong.NothingArrives),
    _fault("cache forgets", "generation sees its last tokens only, and counts places anew", "cache", Decoder,
           generate=wrong.continued_in_a_window),
    _fault("mode not restored", "eval(), an exception, and training goes on without dropout", "mode", Decoder,
           evaluate=wrong.evaluated_without_finally),
    _fault("never in eval mode", "scores with dropout on", "mode", Decoder, evaluate=wrong.score),
)

