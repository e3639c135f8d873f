"""Faults of experts and of further heads: who goes where, what is counted, and which label is whose.

Shapes: N real tokens, K experts of each, E experts, X of them and two sums more, L layers, B rows, T positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dstrain.doctor.faults.planting import put
from dstrain.models import moe_lm
from dstrain.models.moe_lm import MoeLm
from dstrain.nn.expert_block import RoutedFeedForward
from dstrain.nn.experts import Experts
from dstrain.nn.next_heads import ahead
from dstrain.nn.routing import Real, Routed, Router
from dstrain.objectives import next_tokens
from dstrain.objectives.next_tokens import NextTokens
from dstrain.objectives.trainee import Trainee
from dstrain.runtime.engine import Engine


def experts_choose_tokens() -> None:
    """Each expert takes its best half of all tokens: where one goes hangs on who comes after it."""
    inner = Router.forward

    def wrong(self: Router, x_NC: Tensor, real: Real) -> tuple[Tensor, Tensor, Routed]:
        _, _, routed = inner(self, x_NC, real)
        probs_NE = torch.nn.functional.linear(x_NC.to(self.weight.dtype), self.weight).softmax(dim=-1)
        most = max(1, len(probs_NE) // 2)
        taken_NE = torch.zeros_like(probs_NE).scatter(0, probs_NE.detach().topk(most, dim=0).indices, 1.0)
        chosen_NK = (probs_NE.detach() + taken_NE).topk(self.top_k, dim=-1).indices
        gates_NK = (probs_NE * taken_NE).gather(1, chosen_NK)
        return chosen_NK, gates_NK, routed

    put(Router, "forward", wrong)


def padding_routed() -> None:
    """A router that knows no lengths: padding is sent to experts, and counted as what keeps them busy."""
    put(Real, "where", classmethod(lambda cls, is_real_BT, counted=True: cls(None, *is_real_BT.shape, counted)))


def router_z_over_padding() -> None:
    """The experts get real tokens only; the router's term is summed over the whole batch."""
    inner = RoutedFeedForward.forward

    def wrong(self: RoutedFeedForward, x_BTC: Tensor, real: Real) -> tuple[Tensor, Routed]:
        y_BTC, routed = inner(self, x_BTC, real)
        logits_BTE = torch.nn.functional.linear(x_BTC.to(self.router.weight.dtype), self.router.weight)
        return y_BTC, routed._replace(router_z=logits_BTE.logsumexp(dim=-1).square().sum(dtype=torch.float64))

    put(RoutedFeedForward, "forward", wrong)


def balance_over_micro_batches() -> None:
    """Shares and probabilities are averaged over the micro-batch, and not over each row: as small as it, another
    term."""
    inner = Router._added_up

    def wrong(self: Router, logits_NE: Tensor, probs_NE: Tensor, chosen_NK: Tensor, real: Real) -> Routed:
        if not len(logits_NE):
            return inner(self, logits_NE, probs_NE, chosen_NK, real)
        as_one = inner(self, logits_NE, probs_NE, chosen_NK, Real(None, 1, len(logits_NE), True))
        return as_one._replace(balance=as_one.balance * real.rows)

    put(Router, "_added_up", wrong)


def gates_constant() -> None:
    """Each gate over itself, as where one expert's are scaled to sum 1: nothing of what is predicted teaches the router
    where to send a token, but for rounding."""
    inner = Router.forward

    def wrong(self: Router, x_NC: Tensor, real: Real) -> tuple[Tensor, Tensor, Routed]:
        chosen_NK, gates_NK, routed = inner(self, x_NC, real)
        return chosen_NK, gates_NK / gates_NK / self.top_k, routed

    put(Router, "forward", wrong)


def idle_experts_left_out() -> None:
    """`if not len(tokens): continue`: on a rank without tokens the experts are no part of the graph."""
    inner = Experts.forward
    put(Experts, "forward", lambda self, x_NC, chosen_NK, gates_NK: inner(self, x_NC, chosen_NK, gates_NK)
        if len(x_NC) else x_NC)


def bias_moved_in_each_micro_batch() -> None:
    """In the forward pass, by what this micro-batch on this rank has counted."""
    _moved_by(lambda model, seen_LX: _after_step(model, seen_LX, True), lambda model, seen_LX, applied: None)


def bias_by_one_rank() -> None:
    """Behind the step, but by this rank's own counts: each rank has biases of its own."""
    def add(model: MoeLm, seen_LX: Tensor) -> None:
        model.own_seen = getattr(model, "own_seen", 0) + seen_LX

    def wrong(model: MoeLm, seen_LX: Tensor, applied: bool) -> None:
        own, model.own_seen = model.own_seen, 0
        _after_step(model, own, applied)

    _moved_by(add, wrong)


def bias_not_saved() -> None:
    """A buffer that no checkpoint carries: a run that goes on sends tokens elsewhere."""
    inner = Engine.saved_fragments
    put(Engine, "saved_fragments", lambda self: [
        fragment._replace(weight=torch.zeros_like(fragment.weight)) if fragment.name.endswith("nudges") else fragment
        for fragment in inner(self)])


def further_head_one_ahead() -> None:
    """Head k learns the token k + 1 places on."""
    _labels_moved(1)


def further_head_one_behind() -> None:
    """Head k learns what head k - 1 does: it looks far better than it is."""
    _labels_moved(-1)


def further_labels_across_documents() -> None:
    """A roll that knows the row's end, but not where documents end."""
    inner = next_tokens.goes_on
    put(next_tokens, "goes_on", lambda segments_BT, distance: inner(
        torch.where(segments_BT >= 0, 0, segments_BT), distance))


def further_head_told_its_target() -> None:
    """The embedding that a sequential head gets is that of the token that it predicts."""
    put(moe_lm, "ahead", lambda x_BTC, segments_BT, distance: ahead(x_BTC, segments_BT, distance + 1))


def idle_head_left_out() -> None:
    """`if weight == 0: continue`: a head whose turn comes later is no part of the graph until then."""
    inner = NextTokens.sums

    def wrong(self: NextTokens, model: Any, hidden: Any, labels_BT: Tensor, inputs: dict[str, Tensor]) -> Any:
        heads = tuple(hidden_BTC if weight else hidden_BTC.detach()
                      for hidden_BTC, weight in zip(hidden.heads, self.weights))
        return inner(self, model, hidden._replace(heads=heads), labels_BT, inputs)

    put(NextTokens, "sums", wrong)


_after_step = MoeLm.after_step


def _labels_moved(by: int) -> None:
    inner = next_tokens.labels_of_head
    put(next_tokens, "labels_of_head", lambda labels_BT, segments_BT, head: inner(
        labels_BT, segments_BT, head + by if head else head))


def _moved_by(with_each_pass: Any, behind_the_step: Any) -> None:
    inner = Trainee.forward

    def wrong(self: Trainee, **tensors: Any) -> Any:
        sums = inner(self, **tensors)
        if self.training and sums.seen is not None:
            with_each_pass(self.model, sums.seen)
        return sums

    put(Trainee, "forward", wrong)
    put(MoeLm, "after_step", behind_the_step)
