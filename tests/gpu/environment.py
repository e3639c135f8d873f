"""What the checks run on: printed as one JSON object. Missing packages are named without importing anything."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

NEEDED = {"torch": "torch", "deepspeed": "deepspeed", "numpy": "numpy", "yaml": "pyyaml", "tiktoken": "tiktoken",
          "tensorboard": "tensorboard", "zstandard": "zstandard", "pyarrow": "pyarrow", "datasets": "datasets",
          "hjson": "hjson", "pydantic": "pydantic", "psutil": "psutil", "packaging": "packaging", "einops": "einops",
          "msgpack": "msgpack", "cpuinfo": "py-cpuinfo", "tqdm": "tqdm"}
"""module -> package: what dstrain imports on its way (of datasets only the version, for environment.json), and what
DeepSpeed does"""
SHOWN = ("torch", "triton", "deepspeed", "numpy", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-nccl-cu12",
         "nvidia-nccl-cu13", "tiktoken", "tensorboard")


def missing_packages() -> list[str]:
    return [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]


def describe() -> dict:
    import torch

    for module in ("dstrain.families", "dstrain.train.trainer"):  # what is missing is said now, not by every check
        importlib.import_module(module)

    from_gpu = {}
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        from_gpu = {"gpu": device.name, "gpus": torch.cuda.device_count(),
                    "gpu_memory_gib": device.total_memory / 2**30,
                    "compute_capability": f"{device.major}.{device.minor}", "cuda": torch.version.cuda,
                    "cudnn": torch.backends.cudnn.version(), "driver": _driver(),
                    "bf16": torch.cuda.is_bf16_supported()}
    return {"date": time.strftime("%Y-%m-%d %H:%M:%S"), "python": sys.version.split()[0],
            "platform": platform.platform(), "cores": len(os.sched_getaffinity(0)),
            "load_average": list(os.getloadavg()), **from_gpu,
            "packages": {name: _version(name) for name in SHOWN if _version(name)}}


def _driver() -> str | None:
    try:
        asked = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                               capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.split("\n")[0].strip() or None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    print(json.dumps(describe()))
