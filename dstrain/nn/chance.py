"""Randomness without a generator: dropout masks and uniforms are hashes of the numbers that name them.

Shapes: B rows, T slots of a row, C channels.

A dropout mask is keyed by (row key, site, slot, channel), a row key by (seed, step, row of the global batch). So
a mask belongs to no rank, worker, micro-batch or checkpoint, and is the same in every dtype. Integer arithmetic
wraps around, as torch's does on every device.

The hash: per (row, site, slot) 64 well mixed bits give an odd multiplier a and an offset b, both int32, and per
(site, channel) there is a mixed int32 c. The element's number is a * c + b mod 2^32: one multiplication and one
addition per element, any two channels of a slot independent of each other, and slots independent of slots.

torch.compile must not look inside: its C++ code for signed numbers does not wrap around (a quarter of a mask came out
differently). It sees one opaque operation, whose bits are those of the uncompiled code.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

_GOLDEN = -7046029254386353131         # 0x9E3779B97F4A7C15 as int64: 2^64 / golden ratio
_FIRST = -4658895280553007687          # 0xBF58476D1CE4E5B9, the multipliers of the splitmix64 finalizer
_SECOND = -7723592293110705685         # 0x94D049BB133111EB
_UNIFORM = 0x5851F42D4C957F2D          # keeps uniforms() apart from row_keys()


def row_keys(seed: int, step: int, rows_B: Tensor) -> Tensor:
    """One int64 key per row of the global batch, on the rows' device; filler rows (-1) have a key too."""
    return mix(rows_B.long() * _GOLDEN + _mixed_number(seed, step))


def part_keys(keys_B: Tensor, parts: int) -> Tensor:
    """[B * parts] one key for each part of a row, such as the grids beside it; each by its number alone."""
    numbers_P = torch.arange(1, parts + 1, device=keys_B.device) * _GOLDEN
    return mix(keys_B[:, None] ^ mix(numbers_P)).flatten()


def uniforms(seed: int, numbers_B: Tensor, positions_B: Tensor) -> Tensor:
    """float64 numbers in [0, 1), one per (seed, number, position); never 1 after rounding, whatever the scale."""
    keys_B = mix(numbers_B.long() * _GOLDEN + _mixed_number(seed, _UNIFORM))
    return (mix(keys_B + positions_B.long() * _GOLDEN) & (2**52 - 1)).double() * 2.0**-52


class KeyedDropout(nn.Module):
    """Sets a share `rate` of the channels to zero in training and scales the others by 1 / (1 - rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"dropout rate {rate} must be at least 0 and below 1")
        self.rate = rate
        self.site: int | None = None
        self._compiled_site: Tensor | None = None  # the same: a number would be part of the compiled code, one each

    def forward(self, x_BTC: Tensor, keys_B: Tensor | None, slots_T: Tensor | None) -> Tensor:
        """`slots_T`: the place of each position in its row, not in its document."""
        if not self.training or self.rate == 0.0:
            return x_BTC
        if keys_B is None or slots_T is None:
            raise ValueError(f"dropout {self.rate} in training needs keys_B: pass row_keys(seed, step, rows_B), or call"
                             " model.eval() first")
        keep_BTC = self._keep(keys_B, slots_T, x_BTC.shape[-1])
        return (x_BTC * keep_BTC.to(x_BTC.dtype)).mul_(1.0 / (1.0 - self.rate))

    def _keep(self, keys_B: Tensor, slots_T: Tensor, channels: int) -> Tensor:
        if torch.compiler.is_compiling():
            return _opaque_keep_mask(keys_B, self._compiled_site, slots_T, channels, self.rate)
        if self.site is None:
            raise RuntimeError("this dropout has no site number: call name_sites(model) at the end of the model's"
                               " constructor")
        return keep_mask(keys_B, self.site, slots_T, channels, self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def keep_mask(keys_B: Tensor, site: int | Tensor, slots_T: Tensor, channels: int, rate: float) -> Tensor:
    """int32 [B, T, C]: 1 where the channel stays, 0 where it is dropped."""
    bits_BT1 = mix(keys_B[:, None] + (slots_T * _GOLDEN + site)).unsqueeze(-1)
    a_BT1 = (bits_BT1 >> 32).to(torch.int32) | 1
    b_BT1 = bits_BT1.to(torch.int32)
    c_C = mix(torch.arange(channels, device=keys_B.device) * _GOLDEN + ~site).to(torch.int32)
    number_BTC = (a_BT1 * c_C).add_(b_BT1)
    # In place, so that the answer is int32: comparisons that give bool are several times slower on a CPU.
    return number_BTC.lt_(min(round((1.0 - rate) * 2**32) - 2**31, 2**31 - 1))


_opaque_keep_mask = torch.library.custom_op(
    "dstrain::keep_mask", keep_mask, mutates_args=(),
    schema="(Tensor keys_B, Tensor site, Tensor slots_T, int channels, float rate) -> Tensor")


@_opaque_keep_mask.register_fake
def _(keys_B: Tensor, site: Tensor, slots_T: Tensor, channels: int, rate: float) -> Tensor:
    return keys_B.new_empty((len(keys_B), len(slots_T), channels), dtype=torch.int32)


def name_sites(model: nn.Module) -> None:
    """Gives each dropout its number, from its name within `model`: wrappers around the model do not change it."""
    names: dict[int, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, KeyedDropout):
            module.site = name_number(name)
            module._compiled_site = torch.tensor(module.site)
            if names.setdefault(module.site, name) != name:
                raise RuntimeError(f"dropouts {names[module.site]!r} and {name!r} hash to one number: rename one")


def name_number(name: str) -> int:
    """A name as a number below 2^63, the same in every process and release."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def mix(z: Tensor) -> Tensor:
    """Every bit of the answer depends on every bit of the int64 z (the splitmix64 finalizer)."""
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _FIRST        # the masks make torch's signed shifts unsigned
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _SECOND
    return z ^ ((z >> 31) & (2**33 - 1))


def _mixed_number(first: int, second: int) -> int:
    digest = hashlib.blake2b(f"{first}/{second}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
