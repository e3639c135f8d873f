"""The sections of a recipe that the family `arc` has otherwise than `lm`, each field with its meaning."""

from __future__ import annotations

from dataclasses import dataclass

from dstrain.config.counted import CountedInTokens
from dstrain.config.limits import MOST_ROWS, bounded


@dataclass(frozen=True, kw_only=True)
class PuzzleSource:
    """Where puzzles come from: exactly one of `path` and `embedded`."""

    path: str | None = None
    """a file, or a pattern with * and **, relative to the working directory: .json files in ARC's form, each one task
    {"train": [...], "test": [...]}, many of them {"NAME": {...}, ...}, or pairs that a program has generated for one
    [{"input": ..., "output": ...}, ...]. Beside X_challenges.json X_solutions.json is read, too"""
    embedded: str | None = bounded(None, choices=("puzzles",))
    """puzzles that need no download: `puzzles` are made by rule (flip, rotate, recolour, gravity, fill, copy, count)"""
    part: str = bounded("all", choices=("all", "train", "valid"))
    """`valid` holds about a tenth of the tasks, chosen by what they show, so that a turned or recoloured copy is on the
    same side; `train` the others; `all` both. Of embedded ones 350 are to validate on, a million others to train on"""
    weight: float = bounded(1.0, above=0.0)
    """share of the puzzles that this source gives, relative to the other sources' weights"""

    @property
    def hub(self) -> None:
        """Puzzles are in files, or embedded."""
        return None


@dataclass(frozen=True, kw_only=True)
class PuzzleData:
    train: tuple[PuzzleSource, ...]
    """sources of puzzles to train on, mixed by weight"""
    valid: tuple[PuzzleSource, ...] = ()
    """puzzles to validate on: each query whose answer is known is answered at every validation. None of them may be one
    of `data.train`, turned, mirrored or recoloured either"""
    folder: str | None = None
    """where the data lie on this machine: relative paths start here; default: the working directory"""
    demonstrations: int = bounded(3, low=1, high=64)
    """of a puzzle that many are shown beside its query, at most; an `encoder-decoder` is shown none"""
    symmetries: bool = True
    """train on each puzzle turned and mirrored in the 8 ways that a square has; every grid of it alike"""
    colours: str = bounded("all_but_0", choices=("none", "all_but_0", "all"))
    """train on each puzzle with its colours exchanged, every grid of it alike; `all_but_0` leaves 0, the background"""
    prefetch_steps: int = bounded(4, low=1, high=1024)
    """how many steps' batches are prepared ahead of the training thread"""


@dataclass(frozen=True, kw_only=True)
class ArcModel:
    """A Transformer that reads grids and writes one. A preset fills the sizes; what is set beside it wins."""

    kind: str = bounded("champion", choices=("decoder", "encoder-decoder", "champion"))
    """`decoder`: demonstrations, query and answer in one sequence; `encoder-decoder`: the query alone comes in, the
    answer out; `champion`: that with two-dimensional positions, and demonstrations read beside the query"""
    preset: str | None = bounded(None, choices=("tiny", "small", "base", "large"))
    """about 0.5M, 0.9M, 1.7M and 7M parameters; of the champion base is width 160, 4 heads, 1+3 layers and ff 640"""
    width: int | None = bounded(None, low=2)
    """channels of the residual stream; of the champion a multiple of 32"""
    heads: int | None = bounded(None, low=1)
    """attention heads; divides width. Where the champion sees a grid in the eight frames of a square, it has eight"""
    layers: int | None = bounded(None, low=1)
    """of `decoder`: its blocks"""
    encoder_layers: int | None = bounded(None, low=1)
    """of the other kinds: blocks that read grids"""
    decoder_layers: int | None = bounded(None, low=1)
    """of the other kinds: blocks that write the answer"""
    ff: int | None = bounded(None, low=1)
    """channels inside the feed-forward"""
    block: str = bounded("gelu", choices=("gelu", "swiglu"))
    """`gelu`: LayerNorm, GELU and biases; `swiglu`: RMSNorm, SwiGLU and no biases"""
    dropout: float = bounded(0.0, low=0.0, below=1.0)
    """share of channels dropped after the embeddings and after each attention and feed-forward, in training"""
    checkpoint_activations: bool = False
    """recompute each block's activations in the backward pass: less memory, about a third more time"""
    adapt: str | None = None
    """a run of the same kind and sizes, its folder or one of its checkpoints, whose weights (of its newest checkpoint)
    stay as they are while adapters alone are trained beside them. Read once, when the run starts"""
    adapter_rank: int = bounded(0, low=0, high=4096)
    """rank of the low-rank adapter beside each linear layer; 0: none. It goes with `adapt`"""
    code: str | None = None
    """FILE.py:CLASS, a model class of one's own in the place of the kind's: called with the same settings and sizes,
    and by the same keywords. The file is relative to the working directory, and kept with each checkpoint"""

    @property
    def positions(self) -> str:
        return {"decoder": "rotary", "encoder-decoder": "sinusoidal", "champion": "grid"}[self.kind]


@dataclass(frozen=True, kw_only=True)
class PuzzleBatch(CountedInTokens):
    tokens: int = bounded(low=1, high=2**40)
    """positions of one optimizer step over all ranks, at most: puzzles x the largest of them. What a puzzle takes
    depends on model.kind. decoder: its whole sequence; encoder-decoder: its longer grid; champion: its query and all
    that is shown beside it, each grid as the longest of them (or its answer, if that is longer)"""
    micro_tokens: int = bounded(low=1, high=2**40)
    """the same of one forward pass on one rank (a puzzle more where they do not divide evenly): memory decides; it
    changes no number"""
    window: int = bounded(1024, low=1, high=MOST_ROWS)
    """puzzles that are sorted by size and cut into batches together; another number is another data order"""
    length: int = bounded(2048, low=16, high=MOST_ROWS)
    """positions of a puzzle, at most: demonstrations are left out until it fits, and where it does not even so it is
    left out; both are counted. In validation it is cut"""


@dataclass(frozen=True, kw_only=True)
class ArcValid:
    every: int = bounded(500, low=1)
    """optimizer steps between validations; there is one more at the end"""
    patience: int | None = bounded(None, low=1)
    """the run ends early after so many validations in a row without a smaller loss; default: never"""
    views: int = bounded(2, low=1, high=64)
    """in how many views, turned, mirrored and recoloured, each query is answered: the two answers that most of them
    agree on are the two attempts. 1: one attempt alone"""


@dataclass(frozen=True, kw_only=True)
class ArcLog:
    every: int = bounded(10, low=1)
    """optimizer steps between writes of metrics.jsonl and TensorBoard; every step has its line all the same"""
    norms_every: int = bounded(100, low=0)
    """optimizer steps between norms of gradient, weight and update by layer in TensorBoard, where parameters that do
    not move are named; 0: never"""
    samples: int = bounded(4, low=0)
    """validation puzzles drawn at each validation in TensorBoard: demonstrations, query, answer and truth"""
