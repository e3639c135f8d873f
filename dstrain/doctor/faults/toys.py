"""Small models that are right, and batches for them: what the faults are planted into. One file, no dstrain layers.

The id 0 is end of text, start and padding at once, as in GPT-2's vocabulary. Names end in the shape: B rows, T
positions, S source positions, C channels, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCAB, WIDTH, LONGEST, END = 13, 16, 12, 0
LENGTHS = (12, 7, 9, 5, 10, 8)


class Out(NamedTuple):
    loss: Tensor
    logits: Tensor | tuple[Tensor, ...]


def lm_batch(seed: int) -> dict[str, Tensor]:
    """Rows that begin and end with 0, with one more inside; labels are the ids as `transformers` has them."""
    lengths, generator = torch.tensor(LENGTHS), torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCAB, (len(lengths), LONGEST), generator=generator)
    slots_T = torch.arange(LONGEST)
    ids[:, 0] = END
    ids = ids.where(slots_T < lengths[:, None] - 1, END)
    labels = ids.where(slots_T < lengths[:, None], -100)
    return {"ids": ids, "lengths": lengths, "labels": labels}


def pair_batch(seed: int) -> dict[str, Tensor]:
    """A source, which ends with 0, and a decoder's input, which starts with 0; labels are shifted already."""
    generator = torch.Generator().manual_seed(seed)
    lengths, slots_T = torch.tensor(LENGTHS), torch.arange(LONGEST)
    source_lengths = lengths.flip(0)
    source, words = (torch.randint(1, VOCAB, (len(lengths), LONGEST), generator=generator) for _ in range(2))
    source = source.where(slots_T < source_lengths[:, None] - 1, END)
    target = words.where(slots_T < lengths[:, None] - 1, END)
    ids = torch.cat([torch.zeros_like(target[:, :1]), target[:, :-1]], dim=1)
    return {"source": source, "source_lengths": source_lengths, "ids": ids, "lengths": lengths,
            "labels": target.where(slots_T < lengths[:, None], -100)}


def seeded(build: type[nn.Module], seed: int = 0) -> nn.Module:
    """A model whose initial weights hang on the seed alone, small ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.1)
    return model


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x_BTC: Tensor, memory_BSC: Tensor, may_see_BTS: Tensor) -> Tensor:
        scores_BTS = self.query(x_BTC) @ self.key(memory_BSC).transpose(1, 2) / WIDTH ** 0.5
        weights_BTS = scores_BTS.masked_fill(~may_see_BTS, torch.finfo(x_BTC.dtype).min).softmax(-1)
        return self.out(weights_BTS @ self.value(memory_BSC))


class Feedforward(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))


class Experts(nn.Module):
    """Each token chooses two of four experts."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 4, bias=False)
        self.experts = nn.ModuleList(Feedforward() for _ in range(4))

    def shares(self, x_BTC: Tensor) -> Tensor:
        """[B, T, experts] with which weight a token goes to an expert."""
        odds = self.router(x_BTC).softmax(-1)
        return odds * torch.zeros_like(odds).scatter(-1, odds.topk(2, dim=-1).indices, 1.0)

    def forward(self, x_BTC: Tensor) -> Tensor:
        shares = self.shares(x_BTC)
        return sum(shares[..., number:number + 1] * expert(x_BTC) for number, expert in enumerate(self.experts))


class Layer(nn.Module):
    def __init__(self, across: bool = False, experts: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3 if across else 2))
        self.attention = Attention()
        self.across = Attention() if across else None
        self.feed = Experts() if experts else Feedforward()
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, may_see_BTT: Tensor, memory: Tensor | None = None,
                may_see_BTS: Tensor | None = None) -> Tensor:
        y = self.norms[0](x)
        x = x + self.dropout(self.attention(y, y, may_see_BTT))
        if self.across is not None:
            x = x + self.dropout(self.across(self.norms[2](x), memory, may_see_BTS))
        return x + self.dropout(self.feed(self.norms[1](x)))


def causal(ids_BT: Tensor) -> Tensor:
    return torch.ones(ids_BT.shape[1], ids_BT.shape[1], dtype=torch.bool).tril().expand(len(ids_BT), -1, -1)


def real(lengths_B: Tensor, size: int) -> Tensor:
    return torch.arange(size) < lengths_B[:, None]


class Decoder(nn.Module):
    """Predicts the next token; with several heads head k the one k ahead."""

    heads = 1
    experts = False

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LONGEST + 4, WIDTH)
        self.layers = nn.ModuleList(Layer(experts=self.experts) for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.outputs = nn.ModuleList(nn.Linear(WIDTH, VOCAB, bias=False) for _ in range(self.heads))

    def forward(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> Out:
        x_BTC = self.hidden(ids, lengths)
        logits = tuple(output(x_BTC) for output in self.outputs)
        return Out(self.loss(logits, ids, lengths, labels), logits)

    def hidden(self, ids: Tensor, lengths: Tensor) -> Tensor:
        x_BTC = self.embedded(ids)
        for layer in self.layers:
            x_BTC = layer(x_BTC, self.may_see(ids, lengths))
        return self.norm(x_BTC)

    def embedded(self, ids: Tensor) -> Tensor:
        return self.embed(ids) + self.places(torch.arange(ids.shape[1]))

    def may_see(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return causal(ids) & real(lengths, ids.shape[1])[:, None]

    def loss(self, logits: tuple[Tensor, ...], ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        return sum(mean_nll(one, ahead(labels, number + 1)) for number, one in enumerate(logits))


class ThreeHeads(Decoder):
    heads = 3


class Moe(Decoder):
    experts = True


class EncoderDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_source, self.embed = nn.Embedding(VOCAB, WIDTH), nn.Embedding(VOCAB, WIDTH)
        self.places = nn.Embedding(LONGEST + 4, WIDTH)
        self.encoder, self.decoder = Layer(), Layer(across=True)
        self.norm, self.output = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, source: Tensor, source_lengths: Tensor, ids: Tensor, lengths: Tensor, labels: Tensor) -> Out:
        memory = self.encoded(source, source_lengths)
        x_BTC = self.embed(ids) + self.places(torch.arange(ids.shape[1]))
        x_BTC = self.decoded(x_BTC, memory, ids, lengths, source, source_lengths)
        logits = self.output(self.norm(x_BTC))
        return Out(mean_nll(logits, labels), logits)

    def encoded(self, source: Tensor, source_lengths: Tensor) -> Tensor:
        x_BSC = self.embed_source(source) + self.places(torch.arange(source.shape[1]))
        return self.encoder(x_BSC, self.source_mask(source, source_lengths).expand(-1, source.shape[1], -1))

    def decoded(self, x_BTC: Tensor, memory: Tensor, ids: Tensor, lengths: Tensor, source: Tensor,
                source_lengths: Tensor) -> Tensor:
        across_BTS = self.across_mask(source, source_lengths).expand(-1, ids.shape[1], -1)
        return self.decoder(x_BTC, self.own_mask(ids, lengths), memory, across_BTS)

    def source_mask(self, source: Tensor, source_lengths: Tensor) -> Tensor:
        """[B, 1, S]"""
        return real(source_lengths, source.shape[1])[:, None]

    def across_mask(self, source: Tensor, source_lengths: Tensor) -> Tensor:
        return real(source_lengths, source.shape[1])[:, None]

    def own_mask(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return causal(ids) & real(lengths, ids.shape[1])[:, None]


def ahead(labels: Tensor, by: int) -> Tensor:
    """At each place the label that stands `by` further on."""
    return F.pad(labels[:, by:], (0, by), value=-100)


def mean_nll(logits: Tensor, labels: Tensor, ignored: int = -100) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=ignored)


def packed_batch(seed: int) -> dict[str, Tensor]:
    """Rows of two documents and padding: each begins with 0, and its last target is 0; labels are shifted already."""
    batch = lm_batch(seed)
    lengths, slots_T = batch["lengths"], torch.arange(LONGEST)
    borders_B1 = (lengths // 2)[:, None]
    segments = (slots_T >= borders_B1).long().masked_fill(slots_T >= lengths[:, None], -1)
    ids = batch["ids"].masked_fill(slots_T == borders_B1, END)
    labels = ahead(ids, 1).masked_fill(slots_T == lengths[:, None] - 1, END).masked_fill(segments < 0, -100)
    return {"ids": ids, "segments": segments, "labels": labels}


class Packed(Decoder):
    """A decoder whose rows hold several documents."""

    def forward(self, ids: Tensor, segments: Tensor, labels: Tensor) -> Out:
        logits = tuple(output(self.hidden(ids, segments)) for output in self.outputs)
        return Out(mean_nll(logits[0], labels), logits)

    def may_see(self, ids: Tensor, segments: Tensor) -> Tensor:
        return causal(ids) & (segments[:, :, None] == segments[:, None, :])


def evaluated(model: nn.Module) -> float:
    """The loss in eval mode; the mode of every part is put back."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        return score(model)
    finally:
        for part, training in modes:
            part.training = training


@torch.no_grad()
def score(model: nn.Module) -> float:
    return float(model(**lm_batch(3)).loss)


def continued(model: nn.Module, prompt: dict[str, Tensor], new_tokens: int) -> Tensor:
    """Greedy, by whole passes."""
    return grown(model, prompt["ids"], new_tokens, window=LONGEST)


@torch.no_grad()
def grown(model: nn.Module, ids: Tensor, new_tokens: int, window: int) -> Tensor:
    """Each next token from the last `window` tokens."""
    for _ in range(new_tokens):
        seen = ids[:, -window:]
        logits = model(seen, torch.full((len(ids),), seen.shape[1]), seen).logits[0]
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids
