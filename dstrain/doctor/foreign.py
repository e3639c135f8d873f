"""Someone's module and batches as a subject of the proofs: what is which tensor, and what has to be predicted where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dstrain.config.errors import UserError
from dstrain.doctor.model_proofs.probes import IGNORED, beyond
from dstrain.doctor.subject import Roles, Seen, Subject, TensorDict

SEED = 20_230_517
Run = Callable[[nn.Module, TensorDict], Seen]
LOOKED_AT = 8
"""batches among which one with padding is looked for"""


class Foreign(NamedTuple):
    """What the caller said of module and batches; None: to be found."""

    run: Callable[[nn.Module, TensorDict], Any] | None
    ids: str | None
    lengths: str | Tensor | None
    source: str | None
    source_lengths: str | Tensor | None
    segments: str | None
    targets: Callable[[TensorDict], Tensor | Sequence[Tensor]] | None
    end: int | None
    weights: Sequence[float] | None
    smoothing: float
    vocab_size: int | None
    frozen: tuple[str, ...]
    exact: bool


def subject_of(module: nn.Module, batches: Callable[[int], TensorDict] | TensorDict, told: Foreign) -> Subject:
    batch = _chosen(module, batches, told)
    roles = _roles(batch, told)
    lengths_B = _lengths(batch, told.lengths, roles.ids, "lengths", _mask_of(roles, batch), _labels_of(batch))
    source_lengths_B = None
    if roles.source is not None:
        source_lengths_B = _lengths(batch, told.source_lengths, roles.source, "source_lengths", "attention_mask", None)
    run = _run(told.run)
    seen = _first_look(module, batch, run, roles.ids)
    heads = len(seen.features) if seen is not None else len(told.weights or (1.0,))
    logits = seen.features[0].shape[-1] if seen is not None else int(batch[roles.ids].max()) + 1
    vocab_size = told.vocab_size or logits
    if seen is not None and vocab_size > logits:
        raise UserError(f"vocab_size: {vocab_size:,}, but there are {logits:,} logits")
    return Subject(
        module=module, batch=batch, roles=roles, lengths_B=lengths_B, source_lengths_B=source_lengths_B,
        targets=_targets(batch, told, roles, lengths_B, heads), weights=_weights(told.weights, heads),
        smoothing=told.smoothing, vocab_size=vocab_size, run=run, logits_of=lambda module, features: features,
        exact=told.exact, frozen=told.frozen)


# The batch

def _chosen(module: nn.Module, batches: Callable[[int], TensorDict] | TensorDict, told: Foreign) -> TensorDict:
    """The first of a few batches whose rows are not all of one length; or the first."""
    if not callable(batches):
        return _checked(module, batches)
    first = None
    for number in range(LOOKED_AT):
        batch = _checked(module, batches(number))
        first = batch if first is None else first
        roles = _roles(batch, told)
        lengths_B = _lengths(batch, told.lengths, roles.ids, "lengths", _mask_of(roles, batch), _labels_of(batch))
        if len(lengths_B) > 1 and bool(beyond(lengths_B, batch[roles.ids].shape[1]).any()):
            return batch
    return first


def _checked(module: nn.Module, batch: Any) -> TensorDict:
    if not hasattr(batch, "items") or not all(isinstance(tensor, Tensor) for _, tensor in batch.items()):
        raise UserError("batches: a batch has to be tensors by name, such as {'input_ids': ..., 'labels': ...}")
    batch = dict(batch.items())
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    make = getattr(module, "prepare_decoder_input_ids_from_labels", None)
    config = getattr(module, "config", None)
    if make is not None and getattr(config, "is_encoder_decoder", False) and "labels" in batch \
            and "decoder_input_ids" not in batch:
        batch["decoder_input_ids"] = make(labels=batch["labels"])  # as the collator of `transformers` does
    return batch


def _roles(batch: TensorDict, told: Foreign) -> Roles:
    ids = told.ids or ("decoder_input_ids" if "decoder_input_ids" in batch else "input_ids")
    source = told.source
    if source is None and ids == "decoder_input_ids" and "input_ids" in batch:
        source = "input_ids"
    for option, name in (("ids", ids), ("source", source), ("segments", told.segments)):
        if name is not None and name not in batch:
            raise UserError(f"{option}: the batch has no {name!r}, only {', '.join(batch)}: say {option}= one of them")
        if name is not None and (batch[name].ndim != 2 or batch[name].is_floating_point()):
            raise UserError(f"{option}: {name!r} is {batch[name].dtype} {list(batch[name].shape)}: it has to hold "
                            "whole numbers [rows, positions]")
    if told.segments is not None and batch[told.segments].shape != batch[ids].shape:
        raise UserError(f"segments: {told.segments!r} has not the shape of {ids!r}")
    with_source = ()
    if source is not None:
        rows = batch[ids].shape[0]
        if batch[source].shape[0] != rows:
            raise UserError(f"source: {source!r} has {batch[source].shape[0]} rows, {ids!r} {rows}")
        alike = batch[source].shape == batch[ids].shape
        with_source = tuple(name for name, tensor in batch.items() if name not in (ids, source)
                            and tensor.shape == batch[source].shape
                            and (not alike or name in ("attention_mask", told.source_lengths) or "source" in name))
    return Roles(ids=ids, source=source, segments=told.segments, with_source=with_source)


def _mask_of(roles: Roles, batch: TensorDict) -> str:
    return "attention_mask" if roles.source is None else "decoder_attention_mask"


def _labels_of(batch: TensorDict) -> Tensor | None:
    return batch.get("labels")


def _lengths(batch: TensorDict, told: str | Tensor | None, tokens: str, option: str, usual: str,
             labels: Tensor | None) -> Tensor:
    """From what was said, or from a mask, or from where labels end."""
    rows, size = batch[tokens].shape
    if isinstance(told, str) and told not in batch:
        raise UserError(f"{option}: the batch has no {told!r}, only {', '.join(batch)}: say {option}= one of them, or "
                        "give a tensor")
    found = batch[told] if isinstance(told, str) else told
    if found is None:
        found = batch.get(usual)
    if found is None and labels is not None and labels.shape == (rows, size) and usual.startswith("decoder"):
        found = (labels != IGNORED).flip(1).long().cummax(1).values.flip(1)
    if found is None:
        return torch.full((rows,), size, device=batch[tokens].device)
    found = found.to(batch[tokens].device)
    if found.shape == (rows, size):
        mask_BT = found != 0
        found = mask_BT.sum(1)
        if not torch.equal(mask_BT, ~beyond(found, size)):
            raise UserError(f"{option}: the mask of {tokens!r} is not ones and then zeros: rows have to be padded on "
                            "the right, as in training")
    if found.shape != (rows,) or bool((found > size).any()) or bool((found < 0).any()):
        raise UserError(f"{option}: of shape {list(found.shape)}; it has to be [{rows}] lengths up to {size}, or a "
                        f"mask [{rows}, {size}]")
    return found.long()


# The run

def _run(told: Callable[[nn.Module, TensorDict], Any] | None) -> Run:
    def run(module: nn.Module, batch: TensorDict) -> Seen:
        torch.manual_seed(SEED)  # the same dropout at each pass over the same shape
        return _seen(module(**batch) if told is None else told(module, batch))
    return run


def _seen(found: Any) -> Seen:
    if hasattr(found, "loss") and hasattr(found, "logits"):
        found = (found.loss, found.logits)
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise UserError(f"run: {type(found).__name__} has no .loss and .logits: give run=, (module, batch) -> "
                        "(loss, logits)")
    loss, logits = found
    heads = (logits,) if isinstance(logits, Tensor) else tuple(logits)
    if not isinstance(loss, Tensor) or not all(isinstance(head, Tensor) for head in heads) or not heads:
        raise UserError("run: the loss and the logits have to be tensors: are the labels in the batch?")
    return Seen(loss, heads)


def _first_look(module: nn.Module, batch: TensorDict, run: Run, ids: str) -> Seen | None:
    """One pass in training mode: wrong use shows here. None where an index is out of range: the proofs name it."""
    try:
        with torch.no_grad():
            seen = run(module.train(), batch)
    except IndexError:
        return None
    except TypeError as error:
        raise UserError(f"run: the module cannot be called with {', '.join(batch)} ({error}): give run=, (module, "
                        "batch) -> (loss, logits)") from error
    rows, size = batch[ids].shape
    for number, head in enumerate(seen.features):
        if head.ndim != 3 or head.shape[:2] != (rows, size):
            raise UserError(f"run: logits of head {number + 1} have the shape {list(head.shape)}; {ids!r} wants "
                            f"[{rows}, {size}, vocabulary]")
    if seen.loss.numel() != 1:
        raise UserError(f"run: the loss has the shape {list(seen.loss.shape)}: it has to be the one number that is "
                        "optimized")
    return seen


# What has to be predicted

def _weights(told: Sequence[float] | None, heads: int) -> tuple[float, ...]:
    if told is not None and len(told) != heads:
        raise UserError(f"weights: {len(told)} numbers for {heads} heads")
    return tuple(float(weight) for weight in told) if told is not None else (1.0,) * heads


def _targets(batch: TensorDict, told: Foreign, roles: Roles, lengths_B: Tensor, heads: int) -> tuple[Tensor, ...]:
    if told.targets is not None:
        found = told.targets(batch)
        found = (found,) if isinstance(found, Tensor) else tuple(found)
        shapes = [list(target.shape) for target in found]
        if shapes != [list(batch[roles.ids].shape)] * heads:
            raise UserError(f"targets: tensors of shapes {shapes} for {heads} head(s) of "
                            f"{list(batch[roles.ids].shape)}")
        return tuple(target.to(lengths_B.device) for target in found)
    return tuple(next_tokens(batch, roles, lengths_B, head + 1, told.end) for head in range(heads))


def next_tokens(batch: TensorDict, roles: Roles, lengths_B: Tensor, ahead: int, end: int | None) -> Tensor:
    """What the data themselves say: the token `ahead` further on in the row, and in the document.

    A decoder's row ends before its end of text: that is `end`, or else what the labels hold there.
    """
    ids = batch[roles.ids]
    following = torch.cat([ids, ids.new_full((ids.shape[0], ahead), IGNORED)], dim=1)
    where = torch.arange(following.shape[1], device=ids.device)
    following = following.where(where < lengths_B[:, None], IGNORED)
    if roles.source is not None:
        last_BT = where == lengths_B[:, None]
        labels = _labels_of(batch)
        if end is not None:
            following = torch.where(last_BT, end, following)
        elif labels is not None and labels.shape == ids.shape:
            at_end_B1 = labels.gather(1, (lengths_B - 1).clamp(min=0)[:, None])
            following = torch.where(last_BT, at_end_B1, following)
    found = following[:, ahead:]
    if roles.segments is not None:
        segments_BT = batch[roles.segments]
        same = torch.zeros_like(segments_BT, dtype=torch.bool)
        same[:, :-ahead] = segments_BT[:, ahead:] == segments_BT[:, :-ahead]
        found = found.where(same & (segments_BT >= 0), IGNORED)
    return found
