"""What the trainer knows of a model family: this interface, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Protocol

import torch

from dstrain.config.schema import Recipe
from dstrain.config.shape import Shape
from dstrain.train.picture import Drawn
from dstrain.train.shown import Shown


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

    def rests(self, step: int) -> bool:
        """Whether a prediction head has no weight at that step: its parameters rightly get no gradient."""

    def counts(self, batch: Batch) -> torch.Tensor: ...


class Term(NamedTuple):
    """A term of the loss, of one micro-batch."""

    name: str
    weight: float
    summed: torch.Tensor
    """with its graph"""
    count: int
    """found from the data"""


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
    roles: Callable[[Recipe], dict[str, Any]]
    """recipe -> which of a micro-batch's inputs is what: the fields of dstrain.doctor.subject.Roles, by name"""
    lengths: Callable[[Batch], tuple[torch.Tensor, torch.Tensor | None]]
    """micro-batch -> (tokens of each row, tokens of each row's source where it has one)"""
    loss: Callable[..., tuple[tuple[float, ...], float]]
    """(recipe, step or None for the last one) -> (weight of each prediction head's mean loss there, share of the
    targets that is smoothed)"""
    targets: Callable[[Recipe, Batch, Any], tuple[torch.Tensor, ...]]
    """(recipe, micro-batch, tokenizer) -> for each head [B, T] the labels once more, by other means than the
    training's; -100 where nothing is to be scored"""
    wrong: Callable[[Batch, Any], int]
    """(micro-batch, tokenizer) -> how many of its labels, and of its rows' and documents' starts, are wrong"""
    alone: Callable[[Batch, int], Batch]
    """(micro-batch, b) -> its row b as a micro-batch of its own, without padding"""
    astray: Callable[[Recipe, Any, tuple[int, ...]], tuple[int, int]]
    """(recipe on an excerpt, tokenizer, numbers of ranks) -> (targets lost, doubled or out of place in whole epochs of
    training and in a validation, targets counted): against the documents themselves"""
    context_padding: Callable[[Batch], torch.Tensor | None] = lambda batch: None
    """micro-batch -> [B, X] where no token of its context stands, the tokens of the role `context`; None without one"""
    heads_of: Callable[[Any], tuple[torch.Tensor, ...]] = tuple
    """what the model returns -> [B, T, C] hidden states of each prediction head"""
    exact: bool = True
    """what a token may not see changes no bit of it; otherwise the order of sums may depend on it (experts that sort
    tokens: other neighbours are matrices of other sizes)"""
    told_ahead: Callable[[Recipe], tuple[int, ...]] = lambda recipe: (0,)
    """recipe -> for each prediction head how many tokens behind its own place it is given, as its task"""
    further_terms: Callable[[Recipe, Any, Batch], tuple["Term", ...]] = lambda recipe, output, batch: ()
    """(recipe, what the model returns, micro-batch) -> the terms of the loss that are no prediction's"""
    counters_after: Callable[..., dict[str, tuple[torch.Tensor, torch.Tensor]]] = lambda *_: {}
    """(recipe, the model's counters by name, what it returned for each row of a step, share of what it counted that
    rounding may have moved) -> by name the counters after that step, written out by hand, and where that share cannot
    have changed them"""
    heads_at_once: Callable[[Recipe], Recipe] = lambda recipe: recipe
    """the same recipe, with all prediction heads from the first step to the last"""
    first_head_alone: Callable[[Recipe], Recipe | None] = lambda recipe: None
    """the same with the weight 0 for all heads but the first; None where there is one head"""
    active_parameters: Callable[[Recipe, int], int] = lambda recipe, parameters: parameters
    """(recipe, number of parameters) -> those that one token meets"""


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
    model_in_words: Callable[[Recipe, int], list[str]] = lambda recipe, parameters: []
    """(recipe, number of parameters) -> what the first screen says of the model beside its size, in lines"""
    taken_over: Callable[..., Callable[[str, torch.Size], torch.Tensor | None]] | None = None
    """(recipe, tokenizer, say) -> name and shape -> the weight that a fresh run takes over from a trained model; None
    where it has none. Each rank calls it. No function: a fresh run begins with its initial weights"""
    further_scores: Callable[..., dict] | None = None
    """(recipe, model, counts, seen, found) -> scores beside the loss, of a validation's sums over all ranks: targets by
    term, and what the objective's `Sums` hold beside nll"""
    scores_in_words: Callable[[Recipe, dict], list[str]] = lambda recipe, scores: []
    """(recipe, scores) -> those that are tables, `further_scores` or generated ones, as lines for a reader"""
    pictures: Callable[..., dict[str, Drawn]] | None = None
    """(model, tokenizer, recipe) -> pictures that show what it can do by now, by their tags"""
    shown: Callable[..., Shown] | None = None
    """(recipe, model, counts, seen) -> what TensorBoard shows of some steps' `Sums.seen`, over all ranks"""
