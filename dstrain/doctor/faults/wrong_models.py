"""Models with one fault each, as it looked in the code of those who had it; they are right otherwise."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstrain.doctor.faults.toys import (END, VOCAB, WIDTH, Decoder, EncoderDecoder, Experts, Layer, Moe, Out, Packed,
                                        ThreeHeads, ahead, causal, grown, mean_nll, real, score)


# Masks

class SwallowedMask(nn.Module):
    """A wrapper between trainer and model, whose **kwargs eat the lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Decoder()

    def forward(self, ids: Tensor, labels: Tensor, **kwargs: Any) -> Out:
        return self.inner(ids, torch.full((len(ids),), ids.shape[1]), labels)


class UnmaskedSource(EncoderDecoder):
    def source_mask(self, source: Tensor, source_lengths: Tensor) -> Tensor:
        return torch.ones_like(source, dtype=torch.bool)[:, None]


class IdMaskInEncoder(EncoderDecoder):
    def source_mask(self, source: Tensor, source_lengths: Tensor) -> Tensor:
        return (source != END)[:, None]


class IdMaskAcross(EncoderDecoder):
    def across_mask(self, source: Tensor, source_lengths: Tensor) -> Tensor:
        return (source != END)[:, None]


class IdMaskInDecoder(EncoderDecoder):
    """The one that even the fix forgot."""

    def own_mask(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return causal(ids) & (ids != END)[:, None]


class Bidirectional(Decoder):
    def may_see(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return real(lengths, ids.shape[1])[:, None].expand(-1, ids.shape[1], -1)


class GatedAtZero(Bidirectional):
    """No causal mask, behind a gate that starts at zero: at the initial weights nothing of it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))

    def hidden(self, ids: Tensor, lengths: Tensor) -> Tensor:
        x_BTC = self.embedded(ids)
        for layer in self.layers:
            x_BTC = x_BTC + self.gate * (layer(x_BTC, self.may_see(ids, lengths)) - x_BTC)
        return self.norm(x_BTC)


class OnePlaceAhead(Decoder):
    """One place of all sees the next token: a mask that was off by one where two blocks meet."""

    def may_see(self, ids: Tensor, lengths: Tensor) -> Tensor:
        may_see = super().may_see(ids, lengths).clone()
        may_see[:, 3, 4] = True
        return may_see


class CausalInTrainingOnly(Decoder):
    """A second path for evaluation, which forgot the mask: validation losses far too good."""

    def may_see(self, ids: Tensor, lengths: Tensor) -> Tensor:
        everything = real(lengths, ids.shape[1])[:, None].expand(-1, ids.shape[1], -1)
        return super().may_see(ids, lengths) if self.training else everything


class ToldItsTargets(Decoder):
    """What is to be predicted is embedded beside what is known."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_labels = nn.Embedding(VOCAB, WIDTH)

    def forward(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> Out:
        self.labels = labels
        return super().forward(ids, lengths, labels)

    def embedded(self, ids: Tensor) -> Tensor:
        return super().embedded(ids) + self.embed_labels(ahead(self.labels, 1).clamp(min=0))


class OwnMemory(Decoder):
    """Layers for an encoder-decoder, without an encoder: the memory is the row itself, and has no mask."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(across=True) for _ in range(2))

    def hidden(self, ids: Tensor, lengths: Tensor) -> Tensor:
        x_BTC = self.embedded(ids)
        everything = real(lengths, ids.shape[1])[:, None].expand(-1, ids.shape[1], -1)
        for layer in self.layers:
            x_BTC = layer(x_BTC, self.may_see(ids, lengths), x_BTC, everything)
        return self.norm(x_BTC)


class ChoosingExperts(Experts):
    """Each expert chooses its tokens among all of the row."""

    def shares(self, x_BTC: Tensor) -> Tensor:
        odds = self.router(x_BTC).softmax(-1)
        chosen = odds.topk(x_BTC.shape[1] // 2, dim=1).indices
        return odds * torch.zeros_like(odds).scatter(1, chosen, 1.0)


class ExpertChoice(Moe):
    def __init__(self) -> None:
        super().__init__()
        for layer in self.layers:
            layer.feed = ChoosingExperts()


class JoinedDocuments(Packed):
    def may_see(self, ids: Tensor, segments: Tensor) -> Tensor:
        return causal(ids) & (segments >= 0)[:, None]


class JoinedInEvaluation(Packed):
    def may_see(self, ids: Tensor, segments: Tensor) -> Tensor:
        return super().may_see(ids, segments) if self.training else causal(ids) & (segments >= 0)[:, None]


class FirstRowsShape(Decoder):
    """The first row's length stands for all."""

    def may_see(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return super().may_see(ids, lengths[:1].expand(len(ids)))


class PlacesFromTheEnd(Decoder):
    """Places that know one width only: another amount of padding moves them."""

    def embedded(self, ids: Tensor) -> Tensor:
        return self.embed(ids) + self.places(torch.arange(ids.shape[1]).flip(0))


class NormOverRows(Decoder):
    def hidden(self, ids: Tensor, lengths: Tensor) -> Tensor:
        x_BTC = super().hidden(ids, lengths)
        return (x_BTC - x_BTC.mean((0, 1))) / (x_BTC.var((0, 1)) + 1e-5).sqrt()


# Targets

class EndsIgnored(Decoder):
    """The loss ignores the pad's id, which is end of text as well."""

    def loss(self, logits: tuple[Tensor, ...], ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        return mean_nll(logits[0], F.pad(ids[:, 1:], (0, 1), value=END), ignored=END)


class PaddingScored(Decoder):
    def loss(self, logits: tuple[Tensor, ...], ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        return mean_nll(logits[0], ahead(ids, 1))


class NotShifted(Decoder):
    def loss(self, logits: tuple[Tensor, ...], ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        return mean_nll(logits[0], labels)


class ShiftedTwice(Decoder):
    """In the data, and once more in the model."""

    def loss(self, logits: tuple[Tensor, ...], ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        return mean_nll(logits[0], ahead(ahead(labels, 1), 1))


class IgnoredBeforeTheShift(Decoder):
    """Inputs are made from labels in which -100 stands already."""

    def forward(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> Out:
        return super().forward(labels, lengths, labels)


class NoStart(EncoderDecoder):
    """The decoder is fed with the targets themselves: nothing is there to predict the first one from."""

    def forward(self, source: Tensor, source_lengths: Tensor, ids: Tensor, lengths: Tensor, labels: Tensor) -> Out:
        later = super().forward(source, source_lengths, ids[:, 1:], lengths - 1, labels[:, 1:])
        logits = F.pad(later.logits, (0, 0, 1, 0))
        return Out(mean_nll(logits[:, 1:], labels[:, 1:]), logits)


class HeadOneAhead(ThreeHeads):
    """The second head predicts what the first one does."""

    def loss(self, logits: tuple[Tensor, ...], ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        return sum(mean_nll(one, ahead(labels, by)) for one, by in zip(logits, (1, 1, 3), strict=True))


class OneCountForAll(ThreeHeads):
    """Deeper heads have fewer targets, and are divided by the first one's number of them."""

    def loss(self, logits: tuple[Tensor, ...], ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        counts = [(ahead(labels, by) >= 0).sum() for by in (1, 2, 3)]
        return sum(mean_nll(one, ahead(labels, number + 1)) * counts[number] / counts[0]
                   for number, one in enumerate(logits))


class SummedOverAccumulation(Decoder):
    """Eight micro-batches, nobody divides."""

    def loss(self, logits: tuple[Tensor, ...], ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        return 8 * super().loss(logits, ids, lengths, labels)


class MeanOfMeans(Decoder):
    """Each row is a micro-batch with a mean of its own."""

    def loss(self, logits: tuple[Tensor, ...], ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        rows = zip(logits[0].split(1), ahead(labels, 1).split(1), strict=True)
        return torch.stack([mean_nll(one, targets) for one, targets in rows]).mean()


class SummedInEvaluation(Decoder):
    """A mean in training, a sum in evaluation."""

    def loss(self, logits: tuple[Tensor, ...], ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        mean = super().loss(logits, ids, lengths, labels)
        return mean if self.training else mean * (ahead(labels, 1) >= 0).sum()


# Parameters

class _Activation(torch.autograd.Function):
    """A GELU whose backward was written by hand, and for another one."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(context: Any, grad: Tensor) -> Tensor:
        return grad * torch.sigmoid(context.saved_tensors[0])


class _Gelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Activation.apply(x)


class BackwardByHand(Decoder):
    def __init__(self) -> None:
        super().__init__()
        for layer in self.layers:
            layer.feed[1] = _Gelu()


class FirstLossTooHigh(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.too_large = 40.0

    def hidden(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return self.too_large * super().hidden(ids, lengths)


    def loss(self, logits: tuple[Tensor, ...], ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        return mean_nll(logits[0], labels)


class GradientLost(Decoder):
    """Weights were copied, and nobody said that they are to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[1].requires_grad_(False)


class Unused(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.left_out = nn.LayerNorm(WIDTH)


class Halved(Decoder):
    """model.to(bf16): a step is lost in all numbers around 1."""

    def __init__(self) -> None:
        super().__init__()
        self.to(torch.bfloat16)


class SeparatorIsPadding(Decoder):
    """The separator has the pad's id, whose embedding no gradient reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.embed.padding_idx = END


class NothingArrives(Decoder):
    """What the attention finds out is thrown away: only the last token is left."""

    def hidden(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return self.norm(self.embed(ids))


# What the user wrote around the model

def evaluated_without_finally(model: nn.Module) -> float:
    model.eval()
    found = score(model)
    model.train()
    return found


def continued_in_a_window(model: nn.Module, prompt: dict[str, Tensor], new_tokens: int) -> Tensor:
    """A cache that hands on the last tokens alone, and counts places anew."""
    return grown(model, prompt["ids"], new_tokens, window=3)
