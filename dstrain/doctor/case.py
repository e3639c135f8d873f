"""The patient: the user's recipe in small, with its own model classes, data, tokenizer and engine file."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dstrain.config.ds_files import DsFile, read_ds_config
from dstrain.config.engine_json import engine_json
from dstrain.config.join import BATCH, said
from dstrain.config.model_code import wherever_run
from dstrain.config.schema import Data, Recipe
from dstrain.config.shape import positions_a_step
from dstrain.config.translate import PairTokenizers
from dstrain.doctor.long_row import stretched
from dstrain.doctor.on_ranks import on_ranks
from dstrain.doctor.recipe_subject import check_memory, fresh_trainee, subject_of
from dstrain.doctor.subject import Subject
from dstrain.families import family_of
from dstrain.runtime.rank_group import RankGroup
from dstrain.train.family import Family

WORLDS = (1, 2)
"""numbers of ranks that the doctor tries"""
LONGEST = 2048
"""tokens of the one long row that is looked at: attention takes the square of it"""
SAFE_SCALE_POWER = 8
"""of fp16's loss scale"""


@dataclass
class Case:
    """A shrunk recipe and the ranks to run it on; close it when done."""

    recipe: Recipe
    folder: Path
    groups: dict[int, RankGroup] = field(default_factory=dict)
    compiled: bool = False
    """one run of the recipe is to be compiled, as the recipe says; all others are not"""
    not_proven: tuple[str, ...] = ()
    """what of the recipe no proof here reaches, and why"""
    full: Recipe | None = None
    """the recipe at its own size, with its data pinned and its tokenizer as it was saved for the proofs"""
    device: str = "cpu"
    """of the ranks and of the models that are looked at: cpu or cuda"""

    @staticmethod
    def of(recipe: Recipe, ds_config: str | None = None, device: str = "cpu") -> "Case":
        family = family_of(recipe)
        recipe = wherever_run(family.pinned(recipe, None))
        ds_file = read_ds_config(ds_config or recipe.engine.config,
                                 "--deepspeed_config" if ds_config else "engine.config")
        folder = Path(tempfile.mkdtemp(prefix="dstrain-doctor-"))
        try:
            small = _in_small(recipe, family, folder / "data")
            config, not_proven = _engine_file(ds_file, small, folder, device)
            family.open_tokenizer(recipe, None).save(folder / "tokenizer")  # once: it may be learned from the data
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if isinstance(recipe.data, Data) and recipe.data.prepared is not None:
            not_proven += (f"the shards in {recipe.data.prepared}: proven with the text that they were made from",)
        compiler = shutil.which("g++") or shutil.which("clang++")
        if recipe.engine.compile and not compiler:
            not_proven += ("engine.compile: torch.compile needs a C++ compiler, and there is none here; "
                           "proven uncompiled",)
        if (lanes := _lanes(small)) < max(WORLDS):
            not_proven += (f"more than {lanes} rank: data.lanes is {lanes}",)
        if (places := _places(device)) < max(WORLDS):
            not_proven += (f"more than {places} rank: there is one GPU here",)
        if rank := getattr(recipe.model, "adapter_rank", 0):
            not_proven += (f"model.adapter_rank {rank}: proven without adapters, the whole model trained",)
        peers = recipe.engine.expert_parallel
        if (tried := on_ranks(small, min(max(WORLDS), _lanes(small), _places(device))).engine.expert_parallel) < peers:
            not_proven += (f"engine.expert_parallel {peers}: proven with {tried}, on as many ranks as there are here",)
        saved = _saved_tokenizer(recipe, folder / "tokenizer")
        small = replace(small, tokenizer=saved, engine=replace(small.engine, config=config, compile=False))
        return Case(small, folder, compiled=bool(recipe.engine.compile and compiler), not_proven=not_proven,
                    full=replace(recipe, tokenizer=saved), device=device)

    @property
    def family(self) -> Family:
        return family_of(self.recipe)

    @property
    def worlds(self) -> tuple[int, ...]:
        """The numbers of ranks to try: each rank needs a lane, where there are any, and a GPU of its own."""
        return tuple(world for world in WORLDS if world <= min(_lanes(self.recipe), _places(self.device)))

    @property
    def precision(self) -> str:
        """fp32 or bf16: with which rounding the engine's numbers come out. Autocast rounds as bf16 does, and fp16 is
        held to the same bounds."""
        config = self.config(self.recipe, 1)
        return "bf16" if any(config[key]["enabled"] for key in ("bf16", "fp16", "torch_autocast")) else "fp32"

    @property
    def stage(self) -> int:
        return self.config(self.recipe, 1)["zero_optimization"]["stage"]

    def tokenizer(self) -> Any:
        return self.family.open_tokenizer(self.recipe, None)

    def subject(self) -> Subject:
        """The model in small, with all of its heads, on a batch with padding, rows of different lengths, and documents
        side by side."""
        tokenizer, recipe = self.tokenizer(), self.family.anatomy.heads_at_once(self.recipe)
        batch = self.family.anatomy.intruded(recipe, tokenizer)
        return subject_of(recipe, self.family, tokenizer, batch)

    def idle_subjects(self) -> list[Subject]:
        """The model in small, with no weight for any head but the first; and on rows without tokens, as a rank gets
        where there are too few."""
        tokenizer, anatomy = self.tokenizer(), self.family.anatomy
        alone = anatomy.first_head_alone(self.recipe)
        pairs = [] if alone is None else [(alone, anatomy.intruded(alone, tokenizer))]
        recipe = anatomy.heads_at_once(self.recipe)
        pairs.append((recipe, self.family.filler_batch(recipe, 1)))
        return [subject_of(of, self.family, tokenizer, batch) for of, batch in pairs]

    def full_subject(self) -> Subject:
        """The model at its own size, on a first row or two of the data. Raises NotProven where it does not fit here."""
        own, tokenizer = replace(self.full or self.recipe, data=self.recipe.data), self.tokenizer()
        recipe = self.family.anatomy.heads_at_once(self.family.anatomy.at_full_size(own))
        check_memory(recipe, self.family, tokenizer, positions_a_step(recipe))
        with closing(self.family.train_feed(recipe, tokenizer, 0, 1, None)) as feed:
            batch = next(feed).micro_batches[0]
        return subject_of(recipe, self.family, tokenizer, batch)

    def long_subject(self) -> Subject | None:
        """The model in small, on one row as long as the recipe's own rows; None where all its rows are as short."""
        own, tokenizer = replace(self.full or self.recipe, data=self.recipe.data), self.tokenizer()
        length = min(own.batch.length, LONGEST)
        if length <= self.recipe.batch.length:
            return None
        recipe = replace(own, model=self.recipe.model, batch=replace(own.batch, length=length))
        recipe = self.family.anatomy.heads_at_once(self.family.anatomy.at_full_size(recipe))
        check_memory(recipe, self.family, tokenizer, length)
        subject = subject_of(recipe, self.family, tokenizer, self.family.anatomy.intruded(recipe, tokenizer))
        return subject if 2 * int(subject.lengths_B.max()) > length else stretched(subject, length)

    def on_few_documents(self, purpose: str) -> Recipe:
        """The recipe on the first documents of its sources; without any to validate on, on those to train on."""
        few = self.family.anatomy.excerpt(self.recipe, self.new_folder(purpose), few=True)
        return replace(few, data=replace(few.data, valid=few.data.valid or few.data.train))

    def fresh_trainee(self) -> tuple[nn.Module, Any]:
        """What the engine would wrap, at its initial weights and in small; and the tokenizer."""
        tokenizer = self.tokenizer()
        return fresh_trainee(self.recipe, self.family, tokenizer), tokenizer

    def open_data(self) -> None:
        """Reads the first rows to train and to validate on: a user's mistake there is a UserError before any proof."""
        tokenizer = self.tokenizer()
        with closing(self.family.train_feed(self.recipe, tokenizer, 0, 1, None)) as feed:
            next(feed)
        if self.recipe.data.valid:
            next(self.family.valid_batches(self.recipe, tokenizer, 0, 1), None)

    def ranks(self, world: int) -> RankGroup:
        """`world` live ranks, started at the first call."""
        if world not in self.groups or not self.groups[world].alive:
            self.groups[world] = RankGroup(world, device=self.device)
        return self.groups[world]

    def config(self, recipe: Recipe, world: int) -> dict:
        return engine_json(on_ranks(recipe, world), world, self.device)

    def new_folder(self, purpose: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=self.folder))

    def close(self) -> None:
        for group in self.groups.values():
            group.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _in_small(recipe: Recipe, family: Family, folder: Path) -> Recipe:
    """With dropout, whatever the recipe has: the chance law is proven with the rest."""
    folder.mkdir()
    small = family.anatomy.shrink(recipe, folder)
    return replace(small, model=replace(small.model, dropout=small.model.dropout or 0.1))


def _lanes(recipe: Recipe) -> int:
    """As many as anybody asks for where a batch is dealt without lanes."""
    return recipe.data.lanes if isinstance(recipe.data, Data) else max(WORLDS)


def _places(device: str) -> int:
    """For ranks: on CPUs as many as anybody asks for."""
    return max(WORLDS) if device == "cpu" else torch.cuda.device_count()


def _saved_tokenizer(recipe: Recipe, folder: Path) -> str | PairTokenizers:
    """What a recipe says to get the tokenizer, or both, that were saved there."""
    if isinstance(recipe.tokenizer, PairTokenizers):
        return PairTokenizers(source=str(folder / "source"), target=str(folder / "target"))
    return str(folder)


def _engine_file(ds_file: DsFile, small: Recipe, folder: Path, device: str) -> tuple[str, tuple[str, ...]]:
    """(path of the engine file to prove with, what it leaves out).

    Numbers that belong to the recipe are taken out: the file may repeat the user's, and the shrunk recipe has others.
    Whether they agree with the user's recipe was checked when that was loaded.
    """
    recipes_own = {"gradient_accumulation_steps", *BATCH, *(ds_key.partition(".")[0] for ds_key, _, _ in said(ds_file))}
    keys = {key: value for key, value in ds_file.keys.items() if key not in recipes_own}
    path = folder / Path(ds_file.place).name
    path.write_text(json.dumps(keys))
    # Refuses what would be refused on the user's own machine.
    config = engine_json(on_ranks(small, 1), 1, "cuda", str(path))
    if not config["fp16"]["enabled"]:
        return str(path), ()
    if device != "cpu":  # from a scale at which no step of a small model overflows: all steps are compared
        path.write_text(json.dumps(keys | {"fp16": {"enabled": True, "initial_scale_power": SAFE_SCALE_POWER}}))
        return str(path), ("fp16's first loss scales: proven from one at which nothing overflows",)
    without_fp16 = {key: value for key, value in keys.items() if key not in ("fp16", "communication_data_type")}
    path.write_text(json.dumps(without_fp16))
    stage = config["zero_optimization"]["stage"]
    return str(path), (f"fp16: no CPU trains in it; proven in fp32 at the same ZeRO stage, {stage}",)
