"""Faults as they historically looked, planted into the production code of a process and pulled out again."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

_undo: list = []


def plant(ranks, fault: str) -> str:
    globals()[f"_{fault}"]()
    return fault


def pull(ranks) -> None:
    while _undo:
        owner, name, original = _undo.pop()
        setattr(owner, name, original)


def _nobody_compares() -> None:
    """The trainer itself would refuse to go on with what was loaded wrongly: the proof must find it without that."""
    from dstrain.train import start
    _set(start, "check_restored", lambda *_: "not compared")


def _set(owner, name: str, value) -> None:
    _undo.append((owner, name, getattr(owner, name)))
    setattr(owner, name, value)


def _mean_of_means() -> None:
    """Each micro-batch divided by its own count, then averaged: what frameworks do by default."""
    from dstrain.train import step
    inner = step.train_step

    def wrong(engine, objective, batches, rows_hash, number, seed, ranks):
        counts = iter([objective.counts(batch) for batch in batches])
        parts = len(batches) * ranks.world
        _set(step, "loss_law", lambda nll, of_step, weights: (nll / next(counts).clamp(min=1)).sum() / parts)
        try:
            return inner(engine, objective, batches, rows_hash, number, seed, ranks)
        finally:
            owner, name, original = _undo.pop()
            setattr(owner, name, original)

    from dstrain.doctor import short_run
    _set(short_run, "train_step", wrong)


def _dropout_by_generator() -> None:
    from dstrain.nn.chance import KeyedDropout
    _set(KeyedDropout, "forward", lambda self, x, keys, slots: F.dropout(x, self.rate, self.training))


def _schedule_never_stepped() -> None:
    from dstrain.runtime.schedules import WarmupCosineLR
    _set(WarmupCosineLR, "step",
         lambda self, step=None: None if hasattr(self, "_last_lr") else setattr(self, "_last_lr", []))


def _schedule_one_step_late() -> None:
    from dstrain.runtime.schedules import WarmupCosineLR
    inner = WarmupCosineLR.step
    _set(WarmupCosineLR, "step", lambda self, step=None: inner(self, None if step is None else max(1, step - 1)))


def _moments_not_restored() -> None:
    from dstrain.runtime.engine import Engine
    inner = Engine.fragments
    _set(Engine, "fragments", lambda self: (f._replace(moments={}) for f in inner(self)))
    _nobody_compares()


def _update_count_not_restored() -> None:
    from dstrain.runtime.engine import Engine
    _set(Engine, "set_optimizer_step", lambda self, step: None)
    _nobody_compares()


def _place_of_the_prefetched() -> None:
    """The place of the newest batch that was made ready, not of the last one that was trained on."""
    from dstrain.train.state import RunState
    inner, newest = RunState.trained, {}

    def wrong(self, step, place, applied):
        inner(self, step, place, applied)
        self.place = {**newest.get("place", place), "step": place["step"]}
        newest["place"] = place

    _set(RunState, "trained", wrong)


def _unused_parameter() -> None:
    """The last norm is left out of the forward pass."""
    from dstrain.models.decoder_lm import DecoderLm
    inner = DecoderLm.forward

    def wrong(self, **inputs):
        kept, self.norm = self.norm, torch.nn.Identity()
        try:
            return inner(self, **inputs)
        finally:
            self.norm = kept

    _set(DecoderLm, "forward", wrong)


def _labels_not_shifted() -> None:
    from dstrain.data import batching
    inner = batching.collate

    def wrong(rows, micro_rows, length, eot):
        batch = inner(rows, micro_rows, length, eot)
        return replace(batch, labels_BT=torch.where(batch.labels_BT == -100, batch.labels_BT, batch.ids_BT))

    _set(batching, "collate", wrong)


def _padding_scored() -> None:
    from dstrain.data import validation
    inner = validation.collate

    def wrong(*arguments):
        batch = inner(*arguments)
        return replace(batch, labels_BT=batch.labels_BT.clamp(min=0))

    _set(validation, "collate", wrong)


def _documents_not_separated() -> None:
    from dstrain.models import decoder_lm
    inner = decoder_lm.can_attend_BTT
    _set(decoder_lm, "can_attend_BTT", lambda segments_BT: inner(torch.zeros_like(segments_BT)))


def _future_seen() -> None:
    from dstrain.models import decoder_lm
    _set(decoder_lm, "can_attend_BTT", lambda segments_BT: segments_BT[:, :, None] == segments_BT[:, None, :])


def _mask_swallowed() -> None:
    """A wrapper whose **kwargs eat the segments: all of a row looks like one document."""
    from dstrain.models.decoder_lm import DecoderLm
    inner = DecoderLm.forward

    def wrong(self, *, ids_BT, keys_B, **kwargs):
        positions_BT = torch.arange(ids_BT.shape[1]).expand_as(ids_BT)
        return inner(self, ids_BT=ids_BT, segments_BT=torch.zeros_like(ids_BT), positions_BT=positions_BT,
                     keys_B=keys_B)

    _set(DecoderLm, "forward", wrong)


def _nan_on_two_ranks() -> None:
    """From step 2 on every loss on 2 ranks is NaN."""
    from dstrain.doctor import short_run
    inner = short_run.train_step

    def wrong(engine, objective, batches, rows_hash, number, seed, ranks):
        result = inner(engine, objective, batches, rows_hash, number, seed, ranks)
        return result._replace(nll=result.nll * torch.nan) if ranks.world == 2 and number >= 2 else result

    _set(short_run, "train_step", wrong)


def _trainee_swallows_inputs() -> None:
    """The model alone is right, but what the engine calls does not hand on where documents begin."""
    from dstrain.objectives.trainee import Trainee
    inner = Trainee.forward

    def wrong(self, *, inputs, **others):
        return inner(self, inputs={**inputs, "segments_BT": torch.zeros_like(inputs["segments_BT"])}, **others)

    _set(Trainee, "forward", wrong)


def _padded_width_counts() -> None:
    """Hidden states depend on how wide the padded batch is, though not on what stands in the padding."""
    from dstrain.models.decoder_lm import DecoderLm
    inner = DecoderLm.forward
    _set(DecoderLm, "forward",
         lambda self, *, ids_BT, **others: (hidden := inner(self, ids_BT=ids_BT, **others))._replace(
             hidden_BTD=hidden.hidden_BTD * (1 + 1e-3 * ids_BT.shape[1])))


def _prompts_mixed() -> None:
    """Continuations see a little of their neighbours' hidden states."""
    from dstrain.models.decoder_lm import DecoderLm
    inner = DecoderLm.extend
    _set(DecoderLm, "extend",
         lambda self, *arguments: (x := inner(self, *arguments)) + 1e-3 * x.mean(dim=0, keepdim=True))


def _unfinished_validation_rows_dropped() -> None:
    from dstrain.data.validation import _Packer
    inner = _Packer.rest
    _set(_Packer, "rest", lambda self: iter(()) if self._room else inner(self))


def _validated_twice() -> None:
    from dstrain.data import validation
    inner = validation._valid_rows
    _set(validation, "_valid_rows", lambda *arguments: (row for _ in range(2) for row in inner(*arguments)))


def _shuffled_with_replacement() -> None:
    """Some documents come twice in an epoch, others never."""
    from dstrain.data import lanes
    inner = lanes.permutation
    _set(lanes, "permutation", lambda size, *key: [place // 2 for place in inner(size, *key)])


def _validation_leaves_eval_mode() -> None:
    import contextlib

    from dstrain.train import evaluate

    @contextlib.contextmanager
    def wrong(module):
        module.eval()
        yield

    _set(evaluate, "in_eval", wrong)
