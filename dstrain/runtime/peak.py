"""What a device could compute at most, the yardstick of perf/mfu: dense 16-bit matrix products, from data sheets."""

from __future__ import annotations

import torch

# The first name that the device's own name contains; figures in FLOP/s.
PEAK_16_BIT = (("H200", 989e12), ("H100 PCIe", 756e12), ("H100", 989e12), ("B200", 2250e12), ("A100", 312e12),
               ("L40S", 362e12), ("RTX 4090", 165e12), ("A10", 125e12), ("V100", 125e12), ("T4", 65e12))


def peak_flops(device: torch.device, config: dict) -> float | None:
    """FLOP/s of one device in the precision of this run; None where it is not known (CPUs, fp32, other devices)."""
    in_16_bit = config.get("bf16", {}).get("enabled") or config.get("fp16", {}).get("enabled")
    if device.type != "cuda" or not in_16_bit:
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_16_BIT if part in name), None)
