"""A subject on the device whose kernels are to be proven."""

from __future__ import annotations

from dataclasses import replace

from dstrain.doctor.subject import Subject


def on(device: str, subject: Subject) -> Subject:
    """The same on `device`; on a CPU, where it was made, as it is."""
    if device == "cpu":
        return subject
    source_lengths_B, context_padding_BX = subject.source_lengths_B, subject.context_padding_BX
    return replace(
        subject, module=subject.module.to(device), lengths_B=subject.lengths_B.to(device),
        batch={name: tensor.to(device) for name, tensor in subject.batch.items()},
        source_lengths_B=None if source_lengths_B is None else source_lengths_B.to(device),
        context_padding_BX=None if context_padding_BX is None else context_padding_BX.to(device),
        targets=tuple(targets_BT.to(device) for targets_BT in subject.targets))
