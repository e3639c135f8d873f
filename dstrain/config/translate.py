"""The sections of a recipe that the family `translate` has otherwise than `lm`, each field with its meaning."""

from __future__ import annotations

from dataclasses import dataclass

from dstrain.config.counted import CountedInTokens
from dstrain.config.limits import MOST_ROWS, bounded


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """Where sentence pairs come from: exactly one of `path`, `source_path` with `target_path`, `hub`, `embedded`."""

    path: str | None = None
    """a file, or a pattern with * and **, relative to the working directory: .tsv, or .jsonl with records like
    {"translation": {"en": ..., "de": ...}} or {"en": ..., "de": ...}; each plain, .gz or .zst"""
    source_path: str | None = None
    """parallel text, the source's side: a .txt file or one that ends in its language, plain, .gz or .zst, or a pattern
    of such; line n of it and line n of `target_path` are a pair"""
    target_path: str | None = None
    """parallel text, the target's side: as many files as `source_path` names, in the order of their names"""
    hub: str | None = None
    """a dataset on the Hugging Face hub with a column `translation`, or one column for each of data.languages"""
    config: str | None = None
    """of a hub dataset: its configuration, such as de-en; default: its only one"""
    split: str = "train"
    """of a hub dataset: its split"""
    revision: str | None = None
    """of a hub dataset: a branch, tag or commit, by default its newest; a run writes down the commit and keeps to it"""
    embedded: str | None = bounded(None, choices=("numbers-en-de",))
    """pairs that need no download: `numbers-en-de` spells out whole numbers below a million, in English and German"""
    part: str = bounded("all", choices=("all", "train", "valid"))
    """of embedded pairs: `valid` holds numbers that `train` does not"""
    columns: tuple[int, int] = (0, 1)
    """of a .tsv file: the columns of source and target, counted from 0"""
    weight: float = bounded(1.0, above=0.0)
    """share of the target tokens that this source gives, relative to the other sources' weights"""


@dataclass(frozen=True, kw_only=True)
class PairData:
    languages: tuple[str, str]
    """[source, target], such as [en, de]: keys of .jsonl records, columns of hub data, sides of embedded pairs"""
    train: tuple[PairSource, ...]
    """sources of pairs to train on, mixed by weight"""
    valid: tuple[PairSource, ...] = ()
    """pairs to validate on: each scored once per validation"""
    folder: str | None = None
    """where the data lie on this machine: relative paths start here, and a hub dataset is read from FOLDER/NAME (where
    `hf download` put it) or else from FOLDER's own parallel files, by split and language (train.en, train.de.gz,
    valid.en ...); default: the working directory, and the hub"""
    bad_share: float = bounded(0.001, low=0.0, high=1.0)
    """share of malformed lines that is skipped (counted and named); more is an error"""
    prefetch_steps: int = bounded(4, low=1, high=1024)
    """how many steps' batches are prepared ahead of the training thread"""
    workers: int = bounded(2, low=1, high=256)
    """threads of each rank that parse and tokenize beside the training; it changes no batch"""


@dataclass(frozen=True, kw_only=True)
class PairTokenizers:
    """A vocabulary a side; `tokenizer: NAME` alone is one for both."""

    source: str
    """as `tokenizer`, of the source language; bpe:N is learned from the source's side of data.train"""
    target: str
    """the same of the target language"""


@dataclass(frozen=True, kw_only=True)
class TranslateModel:
    """An encoder-decoder Transformer. A preset fills the sizes; what is set beside it wins."""

    preset: str | None = bounded(None, choices=("tiny", "small", "base"))
    """tiny: 4+4 layers of width 128; small: 4+4 of 256; base: 6+6 of 512"""
    width: int | None = bounded(None, low=2)
    """channels of the residual stream"""
    heads: int | None = bounded(None, low=1)
    """attention heads; divides width"""
    encoder_layers: int | None = bounded(None, low=1)
    """blocks that read the source"""
    decoder_layers: int | None = bounded(None, low=1)
    """blocks that write the target"""
    ff: int | None = bounded(None, low=1)
    """channels inside the feed-forward"""
    block: str = bounded("gelu", choices=("gelu", "swiglu"))
    """`gelu`: LayerNorm, GELU and biases; `swiglu`: RMSNorm, SwiGLU and no biases"""
    positions: str = bounded("rotary", choices=("rotary", "learned", "sinusoidal"))
    """how a token knows its place; `rotary`: in the attention of each side to itself"""
    dropout: float = bounded(0.1, low=0.0, below=1.0)
    """share of channels dropped after the embeddings and after each attention and feed-forward, in training"""
    checkpoint_activations: bool = False
    """recompute each block's activations in the backward pass: less memory, about a third more time"""
    code: str | None = None
    """FILE.py:CLASS, a model class of one's own in the place of the family's: called with the same settings and sizes,
    and by the same keywords. The file is relative to the working directory, and kept with each checkpoint"""


@dataclass(frozen=True, kw_only=True)
class TokenBatch(CountedInTokens):
    tokens: int = bounded(low=1, high=2**40)
    """positions of one optimizer step over all ranks, at most: pairs x the longest of their sources and targets"""
    micro_tokens: int = bounded(low=1, high=2**40)
    """the same of one forward pass on one rank (a pair more where pairs do not divide evenly): memory decides; it
    changes no number"""
    window: int = bounded(8192, low=1, high=MOST_ROWS)
    """pairs that are sorted by length and cut into batches together; another number is another data order"""
    length: int = bounded(256, low=2, high=MOST_ROWS)
    """tokens of a source or of a target, its end included, at most"""
    over_long: str = bounded("drop", choices=("drop", "cut"))
    """what becomes of a pair with a longer side in training: left out, or cut there; both are counted. In validation,
    and when translating, it is always cut"""


@dataclass(frozen=True, kw_only=True)
class TranslateObjective:
    label_smoothing: float = bounded(0.1, low=0.0, below=1.0)
    """share of the target distribution that is spread evenly over the vocabulary"""


@dataclass(frozen=True, kw_only=True)
class TranslateValid:
    every: int = bounded(500, low=1)
    """optimizer steps between validations; there is one more at the end"""
    patience: int | None = bounded(None, low=1)
    """the run ends early after so many validations in a row without a smaller loss; default: never"""
    translate: bool = True
    """translate the validation sources at every validation: BLEU, chrF and the share of exact translations"""
    beam: int = bounded(1, low=1, high=64)
    """of these translations: 1 takes the best token each time, more keep so many beginnings"""


@dataclass(frozen=True, kw_only=True)
class TranslateLog:
    every: int = bounded(10, low=1)
    """optimizer steps between writes of metrics.jsonl and TensorBoard; every step has its line all the same"""
    norms_every: int = bounded(100, low=0)
    """optimizer steps between norms of gradient, weight and update by layer in TensorBoard, where parameters that do
    not move are named; 0: never"""
    samples: int = bounded(2, low=0)
    """validation sources translated at each validation, shown in TensorBoard"""
