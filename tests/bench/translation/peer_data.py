"""The peer's data: parallel files as token ids, in memory, and batches of like length under a budget of positions."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peer_model import padded
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    sources: list[str]
    targets: list[str]
    source_ids: list[np.ndarray]
    """each with its end token"""
    target_ids: list[np.ndarray]
    """each with its start token and its end token, which are the same id"""

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True)
class PeerBatch:
    source_BS: Tensor
    source_lengths_B: Tensor
    ids_BT: Tensor
    is_scored_BT: Tensor
    labels_N: Tensor
    """of the scored positions alone"""


def read_pairs(folder: Path, split: str, languages: tuple[str, str], tokenizer) -> Pairs:
    """folder/SPLIT.LANGUAGE.gz, one sentence a line."""
    sources, targets = ([line.rstrip("\n") for line in gzip.open(folder / f"{split}.{language}.gz", "rt",
                                                                 encoding="utf-8")] for language in languages)
    if len(sources) != len(targets):
        raise ValueError(f"{folder}: {split} has {len(sources)} sources but {len(targets)} targets")
    end = [tokenizer.eot]
    return Pairs(sources, targets, [np.concatenate([tokenizer.encode(text), end]) for text in sources],
                 [np.concatenate([end, tokenizer.encode(text), end]) for text in targets])


def endless_batches(pairs: Pairs, positions: int, seed: int) -> Iterator[PeerBatch]:
    """Epoch by epoch: shuffled, sorted by length, cut into batches, and the batches shuffled."""
    order = np.random.default_rng(seed)
    while True:
        cuts = cut_by_length(pairs, order.permutation(len(pairs)), positions)
        for number in order.permutation(len(cuts)):
            yield batch_of(pairs, cuts[number])


def cut_by_length(pairs: Pairs, numbers: np.ndarray, positions: int) -> list[np.ndarray]:
    """Batches of rows x the longest of their sources and targets <= positions; equal lengths keep their order."""
    sources = np.array([len(pairs.source_ids[n]) for n in numbers])
    targets = np.array([len(pairs.target_ids[n]) - 1 for n in numbers])
    longest = np.maximum(sources, targets)
    by_length = np.lexsort((sources, targets, longest))
    cuts, start = [], 0
    for end in range(1, len(numbers) + 1):  # ascending, so the newest row is the longest
        if end == len(numbers) or (end + 1 - start) * longest[by_length[end]] > positions:
            cuts.append(numbers[by_length[start:end]])
            start = end
    return cuts


def batch_of(pairs: Pairs, numbers: np.ndarray) -> PeerBatch:
    source_BS, source_lengths_B = padded([pairs.source_ids[n] for n in numbers])
    ids_BT, lengths_B = padded([pairs.target_ids[n][:-1] for n in numbers])
    is_scored_BT = torch.arange(ids_BT.shape[1]) < lengths_B[:, None]
    labels_BT, _ = padded([pairs.target_ids[n][1:] for n in numbers])
    return PeerBatch(source_BS, source_lengths_B, ids_BT, is_scored_BT, labels_BT[is_scored_BT])
