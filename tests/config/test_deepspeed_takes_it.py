"""The installed DeepSpeed takes the settings at every stage, on one CPU rank, and steps with them."""

from __future__ import annotations

import os
import socket

import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")
torch = pytest.importorskip("torch")
deepspeed = pytest.importorskip("deepspeed")

from recipe_texts import ds_file, recipe_file  # noqa: E402

from dstrain.config.engine_json import engine_json  # noqa: E402
from dstrain.config.load import load_recipe  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def one_rank():
    """A process group of one. The shared-memory operator would be compiled for half a minute otherwise."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1",
                            "MASTER_PORT": port}.items():
            patch.setenv(name, str(value))
        here = not torch.distributed.is_initialized()
        if here:
            deepspeed.init_distributed("gloo", verbose=False)
        yield
        if here:
            deepspeed.comm.destroy_process_group()


CASES = {
    **{name: name for name in ("zero0_fp32", "zero1_fp32", "zero1_bf16", "zero2_fp32", "zero2_bf16", "zero3_fp32",
                               "zero3_bf16", "zero1_offload_bf16", "zero2_offload_bf16", "zero3_offload_bf16",
                               "zero3_offload_param_bf16")},
    "autocast at stage 0": {"zero_optimization": {"stage": 0}, "torch_autocast": {"enabled": True}},
    "ZeRO++": {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 1, "zero_quantized_weights": False}},
    "bare stage 3 names": {"zero_optimization": {"stage": 3, "max_live_parameters": 1000, "sub_group_size": "auto"}},
}


@pytest.mark.parametrize("config", CASES.values(), ids=CASES.keys())
def test_deepspeed_initializes_and_steps(config, tmp_path):
    config = config if isinstance(config, str) else ds_file(tmp_path, config)
    settings = engine_json(load_recipe(recipe_file(tmp_path), ds_config=config), 1, "cpu")
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    stage = settings["zero_optimization"]["stage"]
    assert engine.zero_optimization_stage() == stage
    assert engine.gradient_accumulation_steps() == 3 and engine.train_micro_batch_size_per_gpu() == 4
    assert engine.gradient_clipping() == (1.0 if stage else 0.0)
    dtype = torch.bfloat16 if settings["bf16"]["enabled"] else torch.float32
    for _ in range(3):
        engine.backward(engine(torch.ones(4, 3, dtype=dtype)).float().sum())
        engine.step()
    assert engine.global_steps == 1
    engine.destroy()
