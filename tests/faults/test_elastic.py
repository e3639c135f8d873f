"""A short set of elastic.py: 1, 2, 4, 1 ranks with ZeRO 1, 2, 3, 1, then into bf16 and back, 4 steps a leg."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from elastic import HOME, JOURNEYS, Shape, table, travel  # noqa: E402  (the folder is not that of a package)

pytestmark = pytest.mark.ranks


def test_one_run_through_many_shapes_has_the_same_rows_and_losses(tmp_path):
    journeys = {"ranks and stages": JOURNEYS["ranks and stages"],
                "precision": [HOME, Shape(2, "zero3_bf16", 2), Shape(2, "zero2_fp32", 1)]}
    legs = travel(tmp_path, journeys, 4)
    assert len(legs) == 7 and all(leg.well for leg in legs), table(legs)
    assert [leg.rows for leg in legs] == [4] * 7 and all(leg.verified for leg in legs)
    fp32 = [leg.loss for leg in legs if "fp32" in leg.shape.engine]
    assert len(fp32) == 6 and max(fp32) <= 1e-5
    bf16, = (leg.loss for leg in legs if "bf16" in leg.shape.engine)
    assert bf16 > 1e-5  # it did compute in bf16
