"""The settings that DeepSpeed gets: everything that matters is written, what would train wrongly is refused."""

from __future__ import annotations

import json

import pytest
from recipe_texts import ds_file, recipe_file

from dstrain.config.ds_files import ds_configs_folder
from dstrain.config.engine_json import engine_json
from dstrain.config.errors import UserError
from dstrain.config.load import load_recipe

NAMES = sorted(path.stem for path in ds_configs_folder().glob("*.json"))


def settings_of(tmp_path, settings=None, world=1, device="cuda", overrides=(), name=None):
    config = name or ds_file(tmp_path, settings or {})
    return engine_json(load_recipe(recipe_file(tmp_path), overrides, ds_config=config), world, device)


def refusal_of(tmp_path, settings, device="cuda") -> str:
    with pytest.raises(UserError) as caught:
        settings_of(tmp_path, settings, device=device)
    assert "\n" not in str(caught.value) and "mine.json" in str(caught.value)
    return str(caught.value)


def test_the_ds_configs_are_all_there():
    plain = [f"zero{stage}_{name}" for stage in (1, 2, 3) for name in ("bf16", "fp16", "fp32")]
    offload = ["zero1_offload_bf16", "zero2_offload_bf16", "zero2_offload_fp16", "zero3_offload_bf16",
               "zero3_offload_param_bf16", "zero3_offload_param_fp16"]
    assert NAMES == sorted(["zero0_fp32", *plain, *offload])


@pytest.mark.parametrize("name", NAMES)
def test_a_ds_config_says_stage_and_precision_and_no_batch_number(tmp_path, name):
    settings = settings_of(tmp_path, name=name)
    stage, precision = int(name[4]), name.rpartition("_")[2]
    assert settings["zero_optimization"]["stage"] == stage
    assert {half: settings[half]["enabled"] for half in ("bf16", "fp16")} == {
        "bf16": precision == "bf16", "fp16": precision == "fp16"}
    own = json.loads((ds_configs_folder() / f"{name}.json").read_text())
    assert ("offload_optimizer" in own["zero_optimization"]) == ("_offload_" in name)
    assert ("offload_param" in own["zero_optimization"]) == ("_param_" in name)
    assert set(own) <= {"zero_optimization", "bf16", "fp16"}
    assert json.loads(json.dumps(settings)) == settings


@pytest.mark.parametrize("world, batch", [(1, (12, 4, 3)), (2, (12, 3, 2)), (5, (15, 3, 1))])
def test_batch_numbers_come_from_the_shape_with_filler_rows_counted(tmp_path, world, batch):
    settings = settings_of(tmp_path, world=world)
    assert batch == (settings["train_batch_size"], settings["train_micro_batch_size_per_gpu"],
                     settings["gradient_accumulation_steps"])


def test_what_deepspeed_would_default_otherwise_is_written(tmp_path):
    settings = settings_of(tmp_path, overrides=["optim.clip=0"])
    assert settings["gradient_clipping"] == 0.0  # DeepSpeed's default is 1.0
    assert settings["timers"] == {"throughput": {"enabled": False}}
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}
    assert settings["wall_clock_breakdown"] is False and settings["zero_allow_untested_optimizer"] is True
    assert settings["steps_per_print"] > 10**15


@pytest.mark.parametrize("name", NAMES)
def test_gradients_travel_in_fp32_unless_the_file_says_otherwise(tmp_path, name):
    assert settings_of(tmp_path, name=name)["communication_data_type"] == "fp32"
    own = json.loads((ds_configs_folder() / f"{name}.json").read_text())
    assert settings_of(tmp_path, {**own, "communication_data_type": "auto"})["communication_data_type"] == "fp32"
    assert settings_of(tmp_path, {**own, "communication_data_type": "bf16"})["communication_data_type"] == "bf16"


def test_at_stage_0_deepspeed_does_not_clip(tmp_path):
    assert settings_of(tmp_path, name="zero0_fp32", overrides=["optim.clip=0.7"])["gradient_clipping"] == 0.0
    assert settings_of(tmp_path, name="zero1_fp32", overrides=["optim.clip=0.7"])["gradient_clipping"] == 0.7


def test_stage_3_writes_its_own_keys(tmp_path):
    zero = settings_of(tmp_path, name="zero3_fp32")["zero_optimization"]
    assert zero["stage3_param_persistence_threshold"] == 100_000
    assert zero["stage3_gather_16bit_weights_on_model_save"] is False
    assert zero["stage3_max_live_parameters"] == 10**9 and zero["stage3_prefetch_bucket_size"] == 50_000_000
    assert not any("stage3" in key for key in settings_of(tmp_path, name="zero2_fp32")["zero_optimization"])


def test_the_files_own_zero_keys_win_also_under_their_bare_names(tmp_path):
    zero = settings_of(tmp_path, {"zero_optimization": {"stage": 3, "max_live_parameters": 7, "reduce_bucket_size": 9,
                                                        "overlap_comm": "auto"}})["zero_optimization"]
    assert (zero["stage3_max_live_parameters"], zero["reduce_bucket_size"], zero["overlap_comm"]) == (7, 9, True)
    assert "max_live_parameters" not in zero


def test_zero_plus_plus_passes_through(tmp_path):
    keys = {"stage": 3, "zero_hpz_partition_size": 8, "zero_quantized_weights": True, "zero_quantized_gradients": True}
    assert keys.items() <= settings_of(tmp_path, {"zero_optimization": keys})["zero_optimization"].items()


@pytest.mark.parametrize("stage, asked, got", [
    (1, {"bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}}, "bf16"),
    (0, {"bf16": {"enabled": "auto"}}, None),
    (2, {"bf16": {"enabled": "auto"}, "fp16": {"enabled": True}}, "fp16"),
    (2, {"bf16": {"enabled": False}, "fp16": {"enabled": "auto"}}, None),
])
def test_auto_precision_is_bf16_where_that_is_sound(tmp_path, stage, asked, got):
    settings = settings_of(tmp_path, {"zero_optimization": {"stage": stage}, **asked})
    assert [name for name in ("bf16", "fp16") if settings[name]["enabled"]] == ([got] if got else [])


def test_bf16_autocast_passes_at_stage_0(tmp_path):
    settings = settings_of(tmp_path, {"zero_optimization": {"stage": 0}, "torch_autocast": {"enabled": True}})
    assert settings["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}


REFUSALS = {
    "unknown key, near": ({"gradient_cliping": 1.0}, ["'gradient_cliping'", "'gradient_clipping'?"]),
    "unknown key, far": ({"qqqqq": 1}, ["'qqqqq'", "known here", "zero_optimization"]),
    "unknown key in zero": ({"zero_optimization": {"stage": 1, "overlap_com": True}},
                            ["'overlap_com'", "'overlap_comm'?"]),
    "unknown key in bf16": ({"bf16": {"enable": True}}, ["bf16", "'enable'", "'enabled'?"]),
    "unknown key in data_types": ({"data_types": {"grad_acc_dtype": "bf16"}}, ["'grad_accum_dtype'?"]),
    "unknown key in offload": ({"zero_optimization": {"stage": 1, "offload_optimizer": {"devise": "cpu"}}},
                               ["zero_optimization.offload_optimizer", "'device'?"]),
    "block that is none": ({"bf16": True}, ["bf16", "True", "object"]),
    "old form of zero": ({"zero_optimization": True}, ["zero_optimization", '{"stage": 1}']),
    "stage 4": ({"zero_optimization": {"stage": 4}}, ["zero_optimization.stage", "4", "0, 1, 2 or 3"]),
    "no stage": ({"zero_optimization": {}}, ["zero_optimization.stage", "empty"]),
    "removed": ({"elasticity": {"enabled": True}}, ["elasticity", "removed"]),
    "sparse gradients": ({"sparse_gradients": True}, ["sparse_gradients", "removed"]),
    "layer drop": ({"progressive_layer_drop": {"enabled": True}}, ["progressive_layer_drop", "removed"]),
    "curriculum": ({"curriculum_learning": {"enabled": True}}, ["curriculum_learning", "removed"]),
    "prescale": ({"prescale_gradients": True}, ["prescale_gradients", "loss law"]),
    "predivide": ({"gradient_predivide_factor": 2.0}, ["gradient_predivide_factor", "2.0"]),
    "sum": ({"gradient_allreduce_op": "sum"}, ["gradient_allreduce_op", "'sum'"]),
    "unmanaged": ({"managed_gradient_accumulation": False}, ["managed_gradient_accumulation", "False"]),
    "half accumulation": ({"data_types": {"grad_accum_dtype": "bf16"}},
                          ["data_types.grad_accum_dtype", "'bf16'", "fp32"]),
    "sequence parallel": ({"sequence_parallel_size": 2}, ["sequence_parallel_size", "2", "wrong gradients"]),
    "data efficiency": ({"data_efficiency": {"enabled": True, "seed": 1}}, ["data_efficiency", "recipe"]),
    "monitor": ({"tensorboard": {"enabled": True}}, ["tensorboard", "metrics.jsonl"]),
    "csv": ({"csv_monitor": {"enabled": True}}, ["csv_monitor", "metrics.jsonl"]),
    "checkpoint": ({"checkpoint": {"load_universal": True}}, ["checkpoint", "own checkpoints"]),
    "compile": ({"compile": {"deepcompile": True}}, ["compile", "engine.compile"]),
    "activations": ({"activation_checkpointing": {"partition_activations": True}}, ["model.checkpoint_activations"]),
    "bf16 at stage 0": ({"zero_optimization": {"stage": 0}, "bf16": {"enabled": True}}, ["stage 0", "zero1_bf16"]),
    "fp16 at stage 0": ({"zero_optimization": {"stage": 0}, "fp16": {"enabled": True}}, ["stage 0", "zero1_fp16"]),
    "two halves": ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, ["bf16 and fp16", "keep one"]),
    "half and autocast": ({"bf16": {"enabled": True}, "torch_autocast": {"enabled": True}},
                          ["torch_autocast", "keep one"]),
    "autocast fp16": ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, ["torch_autocast.dtype", "'float16'"]),
    "half masters": ({"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}}, ["fp32 master weights"]),
    "no overflow check": ({"bf16": {"enabled": True, "check_grad_overflow": False}}, ["check_grad_overflow", "NaN"]),
    "text for enabled": ({"bf16": {"enabled": "yes"}}, ["bf16.enabled", "'yes'"]),
    "communication": ({"communication_data_type": "int8"}, ["communication_data_type", "'int8'"]),
    "auto without a meaning": ({"zero_optimization": {"stage": 2, "leaf_module": "auto"}}, ["leaf_module", "auto"]),
    "auto at the top": ({"log_level": "auto"}, ["log_level", "auto"]),
    "untested optimizer": ({"zero_allow_untested_optimizer": False}, ["zero_allow_untested_optimizer"]),
    "offload at stage 0": ({"zero_optimization": {"stage": 0, "offload_optimizer": {"device": "cpu"}}},
                           ["stage 0", "use stage 1"]),
    "parameters at stage 2": ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
                              ["stage 2", "use stage 3"]),
    "nvme": ({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/disk"}}},
             ["offload_optimizer.device is nvme", "checkpoints", "write cpu"]),
    "weights on nvme": ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/disk"}}},
                        ["offload_param.device is nvme", "write cpu"]),
    "super offload": ({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu",
                                                                               "super_offload": True}}},
                      ["super_offload", "torch's"]),
    "a part of the optimizer": ({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu",
                                                                                         "ratio": 0.5}}},
                                ["offload_optimizer.ratio", "0.5"]),
    "unknown device": ({"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "disk"}}}, ["'disk'"]),
    "old offload": ({"zero_optimization": {"stage": 1, "cpu_offload": True}}, ["cpu_offload", "offload_optimizer"]),
    "zenflow": ({"zero_optimization": {"stage": 1, "zenflow": {"topk_ratio": 0.1}}}, ["zenflow", "loss"]),
}


@pytest.mark.parametrize("settings, parts", REFUSALS.values(), ids=REFUSALS.keys())
def test_what_would_train_wrongly_or_not_at_all_is_refused_with_the_reason(settings, parts, tmp_path):
    text = refusal_of(tmp_path, settings)
    for part in parts:
        assert part in text


def test_fp16_is_refused_on_a_cpu_only(tmp_path):
    assert settings_of(tmp_path, name="zero2_fp16", device="cuda")["fp16"]["enabled"] is True
    with pytest.raises(UserError, match="fp16 is enabled, but a CPU.*engine.config=zero2_bf16"):
        settings_of(tmp_path, name="zero2_fp16", device="cpu")


@pytest.mark.parametrize("settings", [{"elasticity": {"enabled": False}}, {"prescale_gradients": False}, {"wandb": {}},
                                      {"gradient_predivide_factor": 1.0}, {"sequence_parallel_size": 1}])
def test_a_refused_key_that_changes_nothing_is_dropped(settings, tmp_path):
    plain = settings_of(tmp_path)
    assert settings_of(tmp_path, settings) == plain


@pytest.mark.parametrize("text, parts", [("{", ["line 1", "JSON"]), ('{"a": 1,\n "b" 2}', ["line 2", "JSON"]),
                                         ("[1]", ["object"]), ('{"fp16": {}, "fp16": {}}', ["'fp16'", "twice"]),
                                         ('{"gradient_clipping": NaN}', ["NaN"]), ("", ["JSON"])])
def test_a_file_that_is_no_json_object_is_said_to_be_none(text, parts, tmp_path):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UserError) as caught:
        load_recipe(recipe_file(tmp_path), ds_config=str(tmp_path / "mine.json"))
    assert "\n" not in str(caught.value)
    for part in ["mine.json", *parts]:
        assert part in str(caught.value)


AUTO_EVERYWHERE = {
    "prescale_gradients": "auto", "gradient_predivide_factor": "auto", "sparse_gradients": "auto",
    "zero_optimization": {"stage": 1, "round_robin_gradients": "auto", "reduce_bucket_size": "auto",
                          "stage3_max_live_parameters": "auto", "max_reuse_distance": "auto", "overlap_comm": "auto"},
}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_auto_leaves_the_settings_as_they_are_at_every_stage(stage, tmp_path):
    zero = {"zero_optimization": {**AUTO_EVERYWHERE["zero_optimization"], "stage": stage}}
    silent = {"zero_optimization": {"stage": stage}}
    assert settings_of(tmp_path, {**AUTO_EVERYWHERE, **zero}) == settings_of(tmp_path, silent)


def test_auto_where_dstrain_has_no_value_is_still_refused(tmp_path):
    zero = {"stage": 1, "pipeline_loading_checkpoint": "auto"}
    assert "pipeline_loading_checkpoint" in refusal_of(tmp_path, {"zero_optimization": zero})
    assert "elasticity" in refusal_of(tmp_path, {"elasticity": "auto"})


@pytest.mark.parametrize("key", ["bf16", "fp16", "torch_autocast", "data_types", "timers", "optimizer", "scheduler",
                                 "comms_logger", "flops_profiler", "aio", "steps_per_print"])
def test_null_is_the_same_as_absent(key, tmp_path):
    assert settings_of(tmp_path, {key: None}) == settings_of(tmp_path)


def test_null_inside_zero_is_the_same_as_absent(tmp_path):
    zero = {"stage": 2, "offload_optimizer": None, "reduce_bucket_size": None, "max_live_parameters": None}
    assert settings_of(tmp_path, {"zero_optimization": zero}) == settings_of(tmp_path, {"zero_optimization": {
        "stage": 2}})


def test_null_does_not_hide_an_unknown_key_or_a_missing_stage(tmp_path):
    assert "'bf61'" in refusal_of(tmp_path, {"bf61": None})
    assert "zero_optimization.stage" in refusal_of(tmp_path, {"zero_optimization": None})


@pytest.mark.parametrize("name", ["max_live_parameters", "prefetch_bucket_size"])
def test_both_names_of_one_setting_are_refused_together(name, tmp_path):
    text = refusal_of(tmp_path, {"zero_optimization": {"stage": 3, f"stage3_{name}": 5, name: 7}})
    assert f"zero_optimization.stage3_{name}" in text and f" {name} " in text and "keep one" in text


def test_a_byte_order_mark_is_no_part_of_the_json(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"zero_optimization": {"stage": 2}}', encoding="utf-8-sig")
    assert settings_of(tmp_path, name=str(path))["zero_optimization"]["stage"] == 2


@pytest.mark.parametrize("text, part", [
    ('{"aio": ' + "[" * 200_000 + "]" * 200_000 + "}", "nested"), ('{"aio": ' + "[" * 101 + "]" * 101 + "}", "nested"),
    ('{"steps_per_print": ' + "9" * 5000 + "}", "5000 digits"), ('{"steps_per_print": 1e999}', "1e999")])
def test_json_beyond_what_python_reads_is_one_line(text, part, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        settings_of(tmp_path, name=str(path))
    message = str(caught.value)
    assert part in message and "mine.json" in message and "\n" not in message and len(message) < 400
