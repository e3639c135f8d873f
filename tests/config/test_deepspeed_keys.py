"""The lists of keys agree with the installed DeepSpeed, so that a new release cannot change them unseen."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")
pytest.importorskip("deepspeed")

import deepspeed.runtime.config as ds  # noqa: E402
from deepspeed.comm.config import CommsLoggerConfig  # noqa: E402
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config  # noqa: E402
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig  # noqa: E402
from deepspeed.runtime.zero.offload_config import (  # noqa: E402
    DeepSpeedZeroOffloadOptimizerConfig, DeepSpeedZeroOffloadParamConfig)

from dstrain.config import deepspeed_keys as keys  # noqa: E402


class Spy(dict):
    """A configuration that notes every key that is looked up in it."""

    def __init__(self, values, seen):
        super().__init__(values)
        self.seen = seen

    def get(self, key, default=None):
        self.seen.add(key)
        return super().get(key, default)

    def __getitem__(self, key):
        self.seen.add(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self.seen.add(key)
        return super().__contains__(key)

    def keys(self):
        return self

    def __copy__(self):
        return self


def read_by_deepspeed(monkeypatch) -> set[str]:
    """Every top-level key that DeepSpeed's configuration looks for. Blocks that are only entered when present are."""
    monkeypatch.setattr(ds.dist, "get_rank", lambda *_: 0)
    monkeypatch.setattr(ds.dist, "get_world_size", lambda *_: 1)
    seen: set[str] = set()
    ds.DeepSpeedConfig(Spy({"train_batch_size": 1}, seen))
    ds.DeepSpeedConfig(Spy({"train_batch_size": 1, "zero_optimization": True}, seen))
    return seen


def names_of(model) -> set[str]:
    return set(model.model_fields) | {field.alias for field in model.model_fields.values() if field.alias}


def test_the_top_level_keys_are_those_that_deepspeed_reads(monkeypatch):
    assert keys.known_top_level() == read_by_deepspeed(monkeypatch)


def test_no_key_is_in_two_lists():
    assert not keys.JOINED & keys.PASSED and not (keys.JOINED | keys.PASSED) & set(keys.REFUSED)
    assert not (keys.ZERO_PASSED | keys.ZERO_STAGE3) & set(keys.ZERO_REFUSED)


def test_every_key_that_deepspeed_removed_is_refused():
    assert set(ds._REMOVED_TOP_LEVEL_CONFIG_KEYS) <= set(keys.REFUSED)
    assert set(ds._REMOVED_ZERO_CONFIG_KEYS) <= set(keys.ZERO_REFUSED)


def test_the_zero_keys_are_those_of_deepspeeds_schema():
    assert keys.known_in_zero() == names_of(DeepSpeedZeroConfig) | set(ds._REMOVED_ZERO_CONFIG_KEYS)


def test_every_deprecated_zero_key_is_refused():
    deprecated = {name for name, field in DeepSpeedZeroConfig.model_fields.items()
                  if (field.json_schema_extra or {}).get("deprecated")}
    assert deprecated and deprecated <= set(keys.ZERO_REFUSED)


@pytest.mark.parametrize("block, model", [("bf16", DeepSpeedBF16Config), ("fp16", DeepSpeedFP16Config),
                                          ("comms_logger", CommsLoggerConfig)])
def test_the_keys_of_a_block_are_those_of_deepspeeds_schema(block, model):
    assert keys.BLOCKS[block] == names_of(model)


@pytest.mark.parametrize("block, model", [("offload_param", DeepSpeedZeroOffloadParamConfig),
                                          ("offload_optimizer", DeepSpeedZeroOffloadOptimizerConfig)])
def test_the_offload_keys_are_those_of_deepspeeds_schema(block, model):
    assert keys.OFFLOAD[block] == names_of(model)


def test_the_keys_of_the_unchecked_blocks_are_those_that_deepspeed_reads():
    autocast, data_types = set(), set()
    block = Spy({"dtype": "bf16", "lower_precision_safe_modules": []}, autocast)
    ds.DeepSpeedConfig({"train_batch_size": 1, "torch_autocast": block, "data_types": Spy({}, data_types)})
    assert autocast == keys.BLOCKS["torch_autocast"] and data_types == keys.BLOCKS["data_types"]
