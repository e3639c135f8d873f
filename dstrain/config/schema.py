"""What a recipe can say: frozen dataclasses, each field with its meaning and unit under it.

Nothing here checks a value against another section (that is rules.py) or reads a file (load.py).
Bounds that concern one field alone stand in its `metadata` and are checked by load.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dstrain.config.arc import ArcLog, ArcModel, ArcValid, PuzzleBatch, PuzzleData
from dstrain.config.limits import MOST_ROWS, MOST_STEPS, bounded
from dstrain.config.moe import MoeModel, MoeObjective
from dstrain.config.translate import (
    PairData, PairTokenizers, TokenBatch, TranslateLog, TranslateModel, TranslateObjective, TranslateValid)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where documents come from: exactly one of `path`, `hub` and `embedded`."""

    path: str | None = None
    """a file, or a pattern with * and **, relative to the working directory: .txt and .jsonl (plain, .gz or .zst),
    .parquet"""
    hub: str | None = None
    """a dataset on the Hugging Face hub, such as Salesforce/wikitext; streamed, or from the cache when offline"""
    config: str | None = None
    """of a hub dataset: its configuration, such as wikitext-103-raw-v1; default: its only one"""
    split: str = "train"
    """of a hub dataset: its split"""
    revision: str | None = None
    """of a hub dataset: a branch, tag or commit, by default its newest; a run writes down the commit and keeps to it"""
    embedded: str | None = bounded(None, choices=("python-stdlib",))
    """a corpus that needs no download: `python-stdlib` is the standard library's source on this machine"""
    part: str = bounded("all", choices=("all", "train", "valid"))
    """of an embedded corpus: `valid` is every 50th file, `train` the others"""
    weight: float = bounded(1.0, above=0.0)
    """share of the training tokens that this source gives, relative to the other sources' weights"""
    text_field: str = "text"
    """of .jsonl, parquet and hub data: the key or column that holds the text"""
    documents: str = bounded("file", choices=("file", "paragraphs", "lines"))
    """of a .txt file, what one document is: the whole file (handed out in pieces of up to 16,384 characters, cut
    at line ends), a run of lines between blank lines, or each line"""
    starts: str | None = None
    """a regular expression; of a .txt file a line that it matches starts a new document (instead of `documents`), of
    .jsonl, parquet and hub data a row: the rows up to the next such row are one document, a line each"""


@dataclass(frozen=True, kw_only=True)
class Data:
    train: tuple[Source, ...]
    """sources to train on, mixed by weight"""
    valid: tuple[Source, ...] = ()
    """sources to validate on: read once per validation, every target scored exactly once"""
    folder: str | None = None
    """where the data lie on this machine: relative paths start here, and a hub dataset is read from FOLDER/NAME (where
    `hf download` put it) or else from FOLDER's own files, by split (train.txt.gz, valid.parquet ...); default: the
    working directory, and the hub"""
    lanes: int | None = bounded(None, low=1, high=MOST_ROWS)
    """independent streams of documents that feed the rows; default: the largest divisor of batch.rows up to 64.
    Another number is another data order"""
    block_tokens: int = bounded(65_536, low=1)
    """documents are shuffled within blocks of about this many tokens per lane"""
    bad_share: float = bounded(0.001, low=0.0, high=1.0)
    """share of malformed lines that is skipped (counted and named); more is an error"""
    prefetch_steps: int = bounded(4, low=1, high=1024)
    """how many steps' batches are prepared ahead of the training thread"""
    workers: int = bounded(2, low=1, high=256)
    """threads of each rank that parse and tokenize beside the training; it changes no batch"""
    prepared: str | None = None
    """folder of token shards that `dstrain prepare` wrote from these sources; default: text is read and tokenized as
    it comes. It changes no batch"""


@dataclass(frozen=True, kw_only=True)
class LmModel:
    """A decoder-only Transformer. A preset fills width, heads, layers and ff; what is set beside it wins."""

    preset: str | None = bounded(None, choices=("tiny", "small", "medium"))
    """tiny 16M (width 256), small 45M (512), medium 124M (768), counted with the GPT-2 vocabulary"""
    width: int | None = bounded(None, low=2)
    """channels of the residual stream"""
    heads: int | None = bounded(None, low=1)
    """attention heads; divides width"""
    layers: int | None = bounded(None, low=1)
    """decoder blocks"""
    ff: int | None = bounded(None, low=1)
    """channels inside the feed-forward; four times the width is usual"""
    block: str = bounded("gelu", choices=("gelu", "swiglu"))
    """`gelu`: LayerNorm, GELU and biases, as in GPT-2; `swiglu`: RMSNorm, SwiGLU and no biases, as in Llama"""
    positions: str = bounded("rotary", choices=("rotary", "learned", "sinusoidal"))
    """how a token knows its place; counted from the start of its document"""
    dropout: float = bounded(0.0, low=0.0, below=1.0)
    """share of channels dropped after the embedding and after each attention and feed-forward, in training"""
    checkpoint_activations: bool = False
    """recompute each block's activations in the backward pass: less memory, about a third more time"""
    code: str | None = None
    """FILE.py:CLASS, a model class of one's own in the place of the family's: called with the same settings and sizes,
    and by the same keywords. The file is relative to the working directory, and kept with each checkpoint"""


@dataclass(frozen=True, kw_only=True)
class Batch:
    rows: int = bounded(low=1, high=MOST_ROWS)
    """rows of one optimizer step, over all ranks and micro-batches"""
    micro_rows: int = bounded(low=1, high=MOST_ROWS)
    """rows of one forward pass on one rank, at most: memory decides; it changes no number"""
    length: int = bounded(low=2, high=MOST_ROWS)
    """tokens of a row"""


@dataclass(frozen=True, kw_only=True)
class Objective:
    weights: tuple[float, ...] = (1.0,)
    """weight of each loss term; `lm` and `arc` have one term, the next token"""


@dataclass(frozen=True, kw_only=True)
class Optim:
    name: str = bounded("adamw", choices=("adamw", "muon"))
    """`adamw`, or `muon`: Muon for the matrices inside the blocks, AdamW for all other parameters"""
    lr: float = bounded(6.0e-4, above=0.0)
    """peak learning rate"""
    muon_lr: float | None = bounded(None, above=0.0)
    """of muon: peak learning rate of its matrices, by default `lr`; updates are scaled to the size of AdamW's"""
    muon_momentum: float = bounded(0.95, low=0.0, below=1.0)
    """of muon: decay of its (Nesterov) momentum"""
    betas: tuple[float, float] = (0.9, 0.95)
    """decay of the first and second moments, each at least 0 and below 1"""
    eps: float = bounded(1.0e-8, above=0.0)
    """added to the root of the second moment"""
    weight_decay: float = bounded(0.1, low=0.0)
    """decoupled; never on norms and biases"""
    clip: float = bounded(1.0, low=0.0)
    """largest global gradient norm; 0: no clipping"""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    name: str = bounded("WarmupCosineLR", choices=("WarmupLR", "WarmupDecayLR", "WarmupCosineLR",
                                                   "WarmupStableDecayLR"))
    """after the warm-up: `WarmupLR` stays at the peak, `WarmupDecayLR` falls in a line to the floor,
    `WarmupCosineLR` in a cosine, `WarmupStableDecayLR` stays at the peak and falls in a line in its last steps"""
    warmup_steps: int = bounded(0, low=0)
    """optimizer steps up to the peak: step n of them runs at n / warmup_steps of it"""
    warmup: str = bounded("linear", choices=("linear", "log"))
    """shape of the rise"""
    floor: float = bounded(0.0, low=0.0, high=1.0)
    """what is left at the last step, as a share of the peak"""
    decay_steps: int | None = bounded(None, low=1)
    """of WarmupStableDecayLR: how many of the last steps fall; default: a fifth of the run"""


@dataclass(frozen=True, kw_only=True)
class Engine:
    config: str = "zero1_fp32"
    """DeepSpeed's part: a name in ds_configs/ (zero1_fp32, zero2_bf16, ...) or the path of a JSON file"""
    compile: bool = False
    """torch.compile the model; needs a C++ compiler, and minutes at the first start: what is compiled is kept for the
    next (in ~/.cache/dstrain/compiled, or where TORCHINDUCTOR_CACHE_DIR says)"""
    expert_parallel: int = bounded(1, low=1)
    """of `moe`: ranks that share out a layer's experts and send each other tokens; divides experts and ranks. It
    changes no number beyond rounding"""


@dataclass(frozen=True, kw_only=True)
class Run:
    name: str
    """names the run folder"""
    dir: str = "runs"
    """where run folders stand"""
    steps: int | None = bounded(None, low=1, high=MOST_STEPS)
    """optimizer steps; or say `tokens`"""
    tokens: int | None = bounded(None, low=1, high=MOST_STEPS)
    """instead of `steps`: positions to train on, rounded up to whole steps; a step has rows x length of them, or where
    a batch is counted in tokens batch.tokens, at most"""
    seed: int = bounded(1, low=0, high=2**31 - 1)
    """decides order, initial weights and dropout"""
    max_minutes: float | None = bounded(None, above=0.0)
    """wall-clock limit of one call, in minutes from its start: the run saves and leaves in time before it, with exit
    code 75; the same command goes on. Default: none"""
    max_skipped: int = bounded(20, low=1)
    """skipped steps (NaN, Inf, overflow) in a row after which the run ends with an error"""


@dataclass(frozen=True, kw_only=True)
class Valid:
    every: int = bounded(500, low=1)
    """optimizer steps between validations; there is one more at the end"""
    patience: int | None = bounded(None, low=1)
    """the run ends early after so many validations in a row without a smaller loss; default: never"""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    every: int = bounded(1000, low=1)
    """optimizer steps between checkpoints; there is one more at the end"""
    keep: int = bounded(3, low=1)
    """how many of the newest stay; the best by validation loss is saved when it is found, and stays too"""
    background: bool = True
    """write while the training goes on, from a copy of weights and moments in the CPU's memory (12 bytes a parameter,
    shared out among the ranks); false: the training waits"""


@dataclass(frozen=True, kw_only=True)
class Log:
    every: int = bounded(10, low=1)
    """optimizer steps between writes of metrics.jsonl and TensorBoard; every step has its line all the same"""
    norms_every: int = bounded(100, low=0)
    """optimizer steps between norms of gradient, weight and update by layer in TensorBoard, where parameters that do
    not move are named; 0: never"""
    samples: int = bounded(2, low=0)
    """texts generated at each validation, shown in TensorBoard"""
    prompt: str = ""
    """what the generated texts continue; empty: the start of a document"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run, whole. The same recipe gives the same batches and the same losses on any shape."""

    family: str = bounded(choices=("lm", "translate", "moe", "arc"))
    """the model family"""
    model: LmModel | TranslateModel | MoeModel | ArcModel
    """the network"""
    tokenizer: str | PairTokenizers = "gpt2"
    """gpt2 | cl100k_base | o200k_base | another tiktoken encoding | bytes | bpe:N, with N ids learned from data.train |
    a folder that holds a saved tokenizer, such as runs/NAME/tokenizer. Of `translate`: one for both languages, or
    {source: ..., target: ...}. Of `arc`: left out, its 14 ids are the colours and what stands between them"""
    data: Data | PairData | PuzzleData
    """what is read"""
    batch: Batch | TokenBatch | PuzzleBatch
    """how much of it a step takes"""
    objective: Objective | TranslateObjective | MoeObjective = Objective()
    """what is optimized"""
    optim: Optim = Optim()
    """by which rule"""
    schedule: Schedule = Schedule()
    """at which learning rate"""
    engine: Engine = Engine()
    """DeepSpeed's settings"""
    run: Run
    """name, length, seed"""
    valid: Valid | TranslateValid | ArcValid = Valid()
    """when to validate"""
    checkpoint: Checkpoint = Checkpoint()
    """when to save, what to keep"""
    log: Log | TranslateLog | ArcLog = Log()
    """what is written down, when"""
    environment: dict[str, str] = field(default_factory=dict)
    """environment variables of every rank, such as NCCL_SOCKET_IFNAME: ib0; what the shell has set already wins"""


SECTIONS: dict[str, dict[str, type]] = {
    "lm": {"model": LmModel, "tokenizer": str, "data": Data, "batch": Batch, "objective": Objective, "valid": Valid,
           "log": Log},
    "translate": {"model": TranslateModel, "tokenizer": str | PairTokenizers, "data": PairData, "batch": TokenBatch,
                  "objective": TranslateObjective, "valid": TranslateValid, "log": TranslateLog},
    "moe": {"model": MoeModel, "tokenizer": str, "data": Data, "batch": Batch, "objective": MoeObjective,
            "valid": Valid, "log": Log},
    "arc": {"model": ArcModel, "tokenizer": str, "data": PuzzleData, "batch": PuzzleBatch, "objective": Objective,
            "valid": ArcValid, "log": ArcLog},
}
"""what those sections are that differ from family to family"""
