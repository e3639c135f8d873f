"""The proofs for anyone's torch module and batches, without dstrain's trainer: `from dstrain.doctor import prove`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from dstrain.config.errors import UserError
from dstrain.doctor.examined import Examined, examined
from dstrain.doctor.finding import Finding, NotProven
from dstrain.doctor.foreign import Foreign, subject_of
from dstrain.doctor.model_proofs import (arguments, by_heart, cache, derivative, documents, first_loss, future,
                                         gradients, mode, neighbours, padding, targets)
from dstrain.doctor.model_proofs.probes import untouched
from dstrain.doctor.subject import Subject, TensorDict
from dstrain.doctor.table import report, width_here

MODEL_PROOFS = {"arguments": arguments, "future": future, "padding": padding, "neighbours": neighbours,
                "documents": documents, "targets": targets, "first_loss": first_loss, "gradients": gradients,
                "derivative": derivative, "by_heart": by_heart}
OWN_FUNCTIONS = {"cache": cache, "mode": mode}
FRESH_ONLY = ("first_loss",)


class Report:
    """What each proof found: str() is a readable table."""

    def __init__(self, found: Sequence[Examined]) -> None:
        self.examined = list(found)

    @property
    def passed(self) -> bool:
        """No proof failed, and at least one was made. What could not be tried is in `not_proven`, and never green."""
        return not self.failed and any(one.passed for one in self.examined)

    @property
    def failed(self) -> list[str]:
        return [one.name for one in self.examined if one.failed]

    @property
    def not_proven(self) -> dict[str, str]:
        """By name of the proof: why it could not be tried."""
        return {one.name: one.why_not for one in self.examined if one.finding is None}

    def __getitem__(self, name: str) -> Examined:
        return {one.name: one for one in self.examined}[name]

    def __str__(self) -> str:
        return report(self.examined, width_here())


def prove(module: nn.Module, batches: Callable[[int], TensorDict] | TensorDict, *,
          run: Callable[[nn.Module, TensorDict], Any] | None = None,
          ids: str | None = None, lengths: str | Tensor | None = None,
          source: str | None = None, source_lengths: str | Tensor | None = None, segments: str | None = None,
          targets: Callable[[TensorDict], Tensor | Sequence[Tensor]] | None = None, end: int | None = None,
          weights: Sequence[float] | None = None, smoothing: float = 0.0, vocab_size: int | None = None,
          generate: Callable[[nn.Module, TensorDict, int], Tensor] | None = None,
          evaluate: Callable[[nn.Module], Any] | None = None,
          fresh: bool = True, frozen: Sequence[str] = (), exact: bool = False,
          only: Sequence[str] | None = None) -> Report:
    """Holds a module that is trained to predict tokens to the laws of such training. It is left exactly as it was.

    batches     a batch as the module is trained on, or a function number -> batch: tensors by name, [rows, positions];
                of the first eight, one with padding is taken
    run         (module, batch) -> what has .loss and .logits, or (loss, logits), logits of several heads as a tuple;
                by default module(**batch)
    ids         name of the tokens that come in where the predictions come out: "decoder_input_ids" or "input_ids"
    lengths     name of a tensor with the rows' lengths or with a mask of them, or such a tensor; by default
                "decoder_attention_mask" or "attention_mask"; without one, as far as there are labels, or all of it
    source      name of an encoder's tokens: "input_ids" beside "decoder_input_ids"
    segments    name of a tensor with the number of the document of each position, negative in padding
    targets     batch -> [rows, positions] what is to be predicted at each position, -100 where nothing is; of several
                heads one each; by default the next token (of head k the one k ahead), up to the row's end
    end         id of the end of text that ends a decoder's row; it is its last target, and it ends what is generated
    weights     of the heads' mean losses in the loss: 1 each
    smoothing   share of label smoothing
    generate    (module, prompt, new_tokens) -> ids, greedy: adds the proof `cache`. A prompt is a batch, no labels
    evaluate    module -> anything: your own evaluation; adds the proof `mode`
    fresh       the weights are initial ones; otherwise the first loss is not proven
    frozen      names or patterns of parameters that are not to be trained
    exact       what may not be seen may change no bit, not even the order of a sum
    only        names of the proofs to try: by default all
    """
    names = _wished(only, generate, evaluate)
    if not isinstance(module, nn.Module):
        raise UserError(f"module: {type(module).__name__} is no torch.nn.Module")
    with untouched(module):
        subject = subject_of(module, batches, Foreign(run, ids, lengths, source, source_lengths, segments, targets, end,
                                                      weights, smoothing, vocab_size, tuple(frozen), exact))
    attempts = {name: _attempt(name, subject, generate, evaluate, end, fresh) for name in names}
    claims = {name: (MODEL_PROOFS | OWN_FUNCTIONS)[name].CLAIM for name in names}
    return Report([examined(name, claims[name], "module", attempt) for name, attempt in attempts.items()])


def _wished(only: Sequence[str] | None, generate: object, evaluate: object) -> list[str]:
    known = [*MODEL_PROOFS, *OWN_FUNCTIONS]
    if only is None:
        given = {"cache": generate, "mode": evaluate}
        return [*MODEL_PROOFS, *(name for name, function in given.items() if function is not None)]
    if isinstance(only, str) or not only:
        raise UserError(f"only: {only!r} has to be a list of one or more of {', '.join(known)}")
    for name in only:
        if name not in known:
            raise UserError(f"only: {name!r} is none of {', '.join(known)}")
        needs = {"cache": ("generate", generate), "mode": ("evaluate", evaluate)}.get(name)
        if needs is not None and needs[1] is None:
            raise UserError(f"only: the proof {name!r} needs {needs[0]}=, your own function")
    return list(only)


def _attempt(name: str, subject: Subject, generate: Callable | None, evaluate: Callable | None, end: int | None,
             fresh: bool) -> Callable[[], Finding]:
    if name == "cache":
        return lambda: cache.prove(subject, generate, end)
    if name == "mode":
        return lambda: mode.prove(subject, evaluate)
    if name in FRESH_ONLY and not fresh:
        return lambda: _not_of_trained_weights()
    return lambda: MODEL_PROOFS[name].prove(subject)


def _not_of_trained_weights() -> Finding:
    raise NotProven("the weights are not initial ones (fresh=False)")
