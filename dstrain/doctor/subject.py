"""What a proof on a model looks at: the module, one real batch, and which of the batch's tensors is what.

Tensor names end in their shape: B rows, T positions, F features of a position, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

TensorDict = dict[str, Tensor]


@dataclass(frozen=True)
class Roles:
    """Names of tensors in a batch; None where a batch has no such tensor."""

    ids: str
    """[B, T] the tokens that come in where the predictions come out: of an encoder-decoder, the decoder's"""
    source: str | None = None
    """[B, S] an encoder's tokens"""
    segments: str | None = None
    """[B, T] number of the document within its row; negative in padding"""
    with_source: tuple[str, ...] = ()
    """other tensors of [B, S]; any other of [B, T] goes with `ids`"""
    context: str | None = None
    """[B, X] other tokens that a row reads, such as a puzzle's demonstrations"""
    with_context: tuple[str, ...] = ()
    """other tensors that tell of the context, such as the lengths of its parts"""
    chance: tuple[str, ...] = ()
    """tensors that decide dropout and nothing else: where there is none, nothing reads them"""


class Seen(NamedTuple):
    """What one forward pass shows."""

    loss: Tensor
    """the number that is optimized"""
    features: tuple[Tensor, ...]
    """for each prediction head [B, T, F], in the loss's graph: its logits, or the hidden states they are made from"""
    further: Tensor | None = None
    """what of the loss is no prediction's, in the same graph, such as what keeps experts busy; None: nothing"""

    @property
    def predicted(self) -> Tensor:
        """The predictions' part of the loss."""
        return self.loss if self.further is None else self.loss - self.further


@dataclass(frozen=True)
class Subject:
    """A model, a batch that it is trained on, and how to look at both."""

    module: nn.Module
    """what training calls, at its initial weights"""
    batch: TensorDict
    """by name, all that a forward pass gets, on the module's device"""
    roles: Roles
    lengths_B: Tensor
    """tokens of each row of `ids`; what stands beyond is padding"""
    source_lengths_B: Tensor | None
    """the same of `source`"""
    targets: tuple[Tensor, ...]
    """for each head [B, T] the token that it has to predict at a position, found from the data and not from what the
    model is told; -100 where nothing is to be scored"""
    weights: tuple[float, ...]
    """of each head's mean loss in the loss"""
    smoothing: float
    """share of the targets' distribution that is spread over the vocabulary"""
    vocab_size: int
    run: Callable[[nn.Module, TensorDict], Seen]
    """a forward pass in the mode that the module is in. The same batch gives the same numbers, dropout included"""
    logits_of: Callable[[nn.Module, Tensor], Tensor]
    """(module, features of a head) -> its logits [B, T, V], in the features' dtype and graph"""
    exact: bool
    """what may not be seen changes no bit; otherwise the order of sums may depend on it (experts that sort tokens)"""
    frozen: tuple[str, ...] = ()
    """parameters that are meant to stay as they are, by name or by a pattern such as encoder.*"""
    context_padding_BX: Tensor | None = None
    """where no token of `context` stands; None without one"""
    told_ahead: tuple[int, ...] = ()
    """for each head, how many tokens behind its own place it is given, as its task; none where nothing is said"""

    def ahead(self, head: int) -> int:
        return self.told_ahead[head] if head < len(self.told_ahead) else 0
