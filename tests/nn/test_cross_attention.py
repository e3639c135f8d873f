"""Attention to a source against a plain formula, head by head."""

from __future__ import annotations

import pytest
import torch

from dstrain.nn.cross_attention import CrossAttention, SourceMemory


def problem(bias: bool):
    torch.manual_seed(0)
    attention = CrossAttention(8, 2, bias).double()
    x_BTC, source_BSC = torch.randn(3, 4, 8, dtype=torch.float64), torch.randn(3, 5, 8, dtype=torch.float64)
    can_attend_B11S = (torch.arange(5) < torch.tensor([5, 2, 1])[:, None])[:, None, None]
    return attention, x_BTC, source_BSC, can_attend_B11S


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_a_softmax_over_the_sources_real_positions_in_each_head(bias: bool):
    attention, x_BTC, source_BSC, can_attend_B11S = problem(bias)
    q_BTC, (k_BSC, v_BSC) = attention.q(x_BTC), attention.kv(source_BSC).split(8, dim=-1)
    assert (attention.kv.bias is not None) == bias
    for row, length in enumerate((5, 2, 1)):
        heads = []
        for head in (slice(0, 4), slice(4, 8)):
            weights_TS = (q_BTC[row, :, head] @ k_BSC[row, :length, head].T / 2.0).softmax(-1)     # 2: sqrt(4)
            heads.append(weights_TS @ v_BSC[row, :length, head])
        expected_TC = attention.out(torch.cat(heads, -1))
        ours_TC = attention(x_BTC, source_BSC, can_attend_B11S)[row]
        torch.testing.assert_close(ours_TC, expected_TC, rtol=1e-12, atol=1e-14)


def test_keys_and_values_made_beforehand_are_the_same():
    attention, x_BTC, source_BSC, can_attend_B11S = problem(True)
    assert torch.equal(attention(x_BTC, attention.keys(source_BSC), can_attend_B11S),
                       attention(x_BTC, source_BSC, can_attend_B11S))


def test_picked_rows_of_a_memory_keep_their_own_mask():
    attention, x_BTC, source_BSC, can_attend_B11S = problem(True)
    rows_N = torch.tensor([2, 0, 0])
    memory = SourceMemory([attention.keys(source_BSC), attention.keys(source_BSC + 1.0)], can_attend_B11S)
    picked = memory.of_rows(rows_N)
    for layer, source in zip(picked.layers, (source_BSC, source_BSC + 1.0), strict=True):
        torch.testing.assert_close(attention(x_BTC, layer, picked.can_attend_B11S),
                                   attention(x_BTC, source[rows_N], can_attend_B11S[rows_N]), rtol=1e-12, atol=1e-14)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="width 10 is not a multiple of heads 4"):
        CrossAttention(10, 4, True)
