"""What the trainer knows of a model family: this interface, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Protocol

import torch

from dstrain.config.schema import Recipe
from dstrain.config.shape import Shape


class Batch(Protocol):
    """One micro-batch on one rank."""

    labels_BT: torch.Tensor
    rows_B: torch.Tensor
    words: int

    def inputs(self) -> dict[str, torch.Tensor]: ...

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch": ...


class Objective(Protocol):
    """Which terms are optimized, with which weights, and how many targets of each a batch has."""

    terms: tuple[str, ...]
    weights: tuple[float, ...]
    """of the run's last step, and so of every validation"""

    def weights_at(self, step: int) -> tuple[float, ...]: ...

    def counts(self, batch: Batch) -> torch.Tensor: ...


@dataclass(frozen=True)
class Anatomy:
    """What the doctor must know of a family, to hold its data and its models to the laws from outside."""

    shrink: Callable[[Recipe, Path], Recipe]
    """(recipe, an empty folder) -> the same in small: same classes, tokenizer and engine file, and the same data, or
    the beginning of each source in a file there; a proof on it takes seconds"""
    at_full_size: Callable[[Recipe], Recipe]
    """recipe -> its own model and lengths, with data and batches so small that a first micro-batch is there at once"""
    micro_sizes: tuple[int, int]
    """batch.micro_rows or batch.micro_tokens of a shrunk recipe: of many small micro-batches, and of few"""
    excerpt: Callable[..., Recipe]
    """(recipe, an empty folder, few=...) -> the recipe on the first documents of each of its sources, as small files
    there: on them whole epochs can be counted. `few`: so few of them that validations take no time"""
    ragged: Callable[[Batch, int], Batch]
    """(micro-batch, step) -> the same with rows cut to very different lengths, by step and row number alone"""
    intruded: Callable[[Recipe, Any], Batch]
    """(recipe, tokenizer) -> a micro-batch of real tokens with padding, rows of different lengths, and where rows hold
    documents, several in each"""
    roles: dict[str, Any]
    """which of a micro-batch's inputs is what: the fields of dstrain.doctor.subject.Roles, by name"""
    lengths: Callable[[Batch], tuple[torch.Tensor, torch.Tensor | None]]
    """micro-batch -> (tokens of each row, tokens of each row's source where it has one)"""
    loss: Callable[[Recipe], tuple[tuple[float, ...], float]]
    """recipe -> (weight of each prediction head's mean loss, share of the targets that is smoothed)"""
    targets: Callable[[Batch, Any], tuple[torch.Tensor, ...]]
    """(micro-batch, tokenizer) -> for each head [B, T] the labels once more, by other means than the training's; -100
    where nothing is to be scored"""
    wrong: Callable[[Batch, Any], int]
    """(micro-batch, tokenizer) -> how many of its labels, and of its rows' and documents' starts, are wrong"""
    alone: Callable[[Batch, int], Batch]
    """(micro-batch, b) -> its row b as a micro-batch of its own, without padding"""
    astray: Callable[[Recipe, Any, tuple[int, ...]], tuple[int, int]]
    """(recipe on an excerpt, tokenizer, numbers of ranks) -> (targets lost, doubled or out of place in whole epochs of
    training and in a validation, targets counted): against the documents themselves"""


@dataclass(frozen=True)
class Family:
    """A model builder, a data builder, an objective and a scorer, registered together in dstrain/families/."""

    name: str
    command: str
    """which `dstrain` command uses its trained models, such as generate"""
    pinned: Callable[[Recipe, Recipe | None], Recipe]
    """(recipe, the recipe of the checkpoint that it goes on from) -> the recipe with every moving name of data, such as
    a branch on the hub, replaced by what it means now, or meant to the checkpoint"""
    open_tokenizer: Callable[..., Any]
    """(recipe, folder where this run saved its own or None, say) -> the tokenizer; of a new run it may take time"""
    build_trainee: Callable[[Recipe, Any], torch.nn.Module]
    """(recipe, tokenizer) -> the module that DeepSpeed wraps, with .model inside"""
    build_objective: Callable[[Recipe], Objective]
    """recipe -> objective"""
    initial_weight: Callable[[torch.nn.Module, str, torch.Size, int], torch.Tensor]
    """(model, name, shape, seed) -> the weight that a fresh run starts from"""
    train_feed: Callable[..., Any]
    """(recipe, tokenizer, rank, world, place, pin=...) -> an iterator of steps
    (a dataclass) with .number .micro_batches .place .rows_hash .stats .wait_s"""
    merge_places: Callable[[list[dict]], dict]
    """all ranks' places -> the place that a checkpoint carries"""
    valid_batches: Callable[..., Iterator[Batch]]
    """(recipe, tokenizer, rank, world) -> one pass over the validation data"""
    filler_batch: Callable[[Recipe, int], Batch]
    """(recipe, world) -> a batch that scores nothing, for ranks that run out first"""
    text_bytes: Callable[[Recipe], int | None]
    """recipe -> size of the training text (of pairs: of the targets) in bytes, None where nobody knows without
    reading it"""
    flops_a_target: Callable[[Recipe, int], float]
    """(recipe, number of parameters) -> forward and backward FLOPs a target, for perf/mfu"""
    row_texts: Callable[[Any, Any], Iterator[tuple[int, str]]]
    """(micro-batch, tokenizer) -> number and text of each of its rows, fillers left out"""
    data_in_words: Callable[[Recipe, dict[str, int]], list[str]]
    """(recipe, the first step's stats of all ranks) -> what a run says of its data before it starts, in lines"""
    step_in_words: Callable[[Recipe, Shape], str]
    """(recipe, shape) -> what a step holds, and how it is divided"""
    sample: Callable[[torch.nn.Module, Any, Recipe], list[str]]
    """(model, tokenizer, recipe) -> texts that show what it can do by now"""
    generated_scores: Callable[..., dict | None] | None
    """(model, tokenizer, recipe, ranks, alone, must_leave) -> scores of what the model generates for the validation
    data; None when a rank had to leave. `alone`: each rank holds the whole model. No function: nothing to generate"""
    anatomy: Anatomy
    """what the doctor holds its data and models to the laws with"""
