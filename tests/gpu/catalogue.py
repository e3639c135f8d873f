"""All checks, in the order in which they start: name, claim, where its code is, how long it may take.

Nothing here imports torch, so that a missing package or GPU is said at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    name: str
    claim: str
    module: str
    """of this folder; its function `show` makes the check"""
    budget_s: int
    """on a GPU; the check is ended then"""
    alone: bool = False
    """it measures time, so nothing else runs beside it"""
    choice: str | None = None
    """what `show` is told, where one module makes several checks"""


CHECKS = (
    Check("fp32", "20 losses and the first gradient in fp32 do not depend on ZeRO stage and micro-batches, and are "
                  "those of a float64 reference", "equivalence", 120, choice="fp32"),
    Check("bf16", "bf16 at ZeRO 1-3, in any micro-batches, stays within its rounding of fp32 and of a float64 "
                  "reference", "equivalence", 120, choice="bf16"),
    Check("fp16", "fp16 at ZeRO 1-3, in any micro-batches, stays within its rounding of fp32 and of a float64 "
                  "reference", "equivalence", 120, choice="fp16"),
    Check("fp16-overflow", "a step that overflows in fp16 is skipped at every ZeRO stage alike, changes no weight, and "
                           "halves the scale", "overflow", 90),
    Check("attention", "every attention backend that takes the mask of packed documents gives the outputs and "
                       "gradients of a float64 reference", "attention", 90),
    Check("masks", "padding, other documents, other rows and later tokens change no bit of any scored hidden state, "
                   "in any precision and backend", "masked", 90),
    Check("offload", "offload to CPU memory changes losses by rounding at most, and leaves less on the GPU",
          "offloaded", 120),
    Check("resume", "a run that was stopped twice and went on: losses within rounding, with ordinary algorithms",
          "resumed", 90, choice="ordinary"),
    Check("resume-deterministic", "a run that was stopped twice and went on is bit-identical with deterministic "
                                  "algorithms", "resumed", 90, choice="deterministic"),
    Check("transfers", "batches come from pinned memory, AdamW is one fused kernel a group, and a step waits for the "
                       "GPU as often with four micro-batches as with one", "transfers", 60),
    Check("memory", "logits are never held whole, and activation checkpointing saves memory without changing a loss",
          "memory", 60),
    Check("rates", "what the GPU reaches here: matrix products, copies", "rates", 45, alone=True),
    Check("head", "the chunked loss head gives the loss and the gradients of a float64 reference; its speed by chunk "
                  "size", "head", 60, alone=True),
    Check("speed-small", "small (45M), bf16: speed, share of the peak, memory, cost against the best bare loop",
          "speed", 110, alone=True, choice="small"),
    Check("speed-medium", "medium (124M), bf16: speed, share of the peak, memory, cost against the best bare loop",
          "speed", 130, alone=True, choice="medium"),
    Check("compile", "compiled, ZeRO 1 and 3 give the losses of the uncompiled model, and a second start takes its "
                     "code from the cache", "compiled", 170, alone=True),
    Check("speed-tiny", "tiny (16M), bf16: speed, share of the peak, memory, cost against the best bare loop",
          "speed", 110, alone=True, choice="tiny"),
)
