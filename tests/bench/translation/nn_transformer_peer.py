"""The peer of dstrain's translation training: a plain, good PyTorch loop around torch.nn.Transformer.

    .venv/bin/python tests/bench/translation/nn_transformer_peer.py --data ../shared/data/multi30k \\
        --tokenizer runs/multi30k-en-de/tokenizer --budget-s 1200 --json peer.json

Model, vocabulary, batch size, label smoothing and clipping are those of dstrain's recipe multi30k-en-de. The budget is
CPU time of the training steps, batches included; set-up, validation and decoding are not counted. The learning rate
rises in a line over the first steps, then falls in a cosine over the budget.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[3]), str(Path(__file__).resolve().parent)]

import torch  # noqa: E402
from peer_data import Pairs, batch_of, cut_by_length, endless_batches, read_pairs  # noqa: E402
from peer_model import PeerModel, Sizes, padded  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from dstrain.data.tokenizers.tokenizer import load_tokenizer  # noqa: E402


def main() -> None:
    arguments = _arguments()
    torch.manual_seed(arguments.seed)
    tokenizer = load_tokenizer(f"{arguments.tokenizer}/")
    train, valid = (read_pairs(arguments.data, split, tuple(arguments.languages), tokenizer)
                    for split in ("train", "val"))
    sizes = Sizes(activation=arguments.activation, dropout=arguments.dropout,
                  attention_dropout=arguments.attention_dropout)
    model = PeerModel(sizes, tokenizer.vocab_size)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"peer: {len(train):,} pairs, {parameters:,} parameters, {torch.get_num_threads()} thread(s)", flush=True)
    result = {"side": "nn.Transformer", "parameters": parameters, "vocabulary": tokenizer.vocab_size,
              "sizes": asdict(sizes), "torch": torch.__version__,
              "arguments": {name: str(value) for name, value in vars(arguments).items()}, "curve": []}

    def scored() -> dict:
        model.eval()
        found = valid_loss(model, valid) | translation_scores(model, valid, tokenizer)
        model.train()
        return found

    result |= train_on(model, train, arguments, scored, result["curve"])
    result |= scored()
    print(f"peer: {_line(result)}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def train_on(model: PeerModel, train: Pairs, arguments: argparse.Namespace, scored: Callable[[], dict],
             curve: list[dict]) -> dict:
    """To the end of the budget. What is counted: CPU time of this process within the loop, scores left out."""
    optimizer = torch.optim.AdamW(_groups(model, arguments.weight_decay), lr=arguments.lr, betas=arguments.betas,
                                  eps=1e-9, fused=True)
    parameters = list(model.parameters())
    batches = endless_batches(train, arguments.tokens, arguments.seed)
    model.train()
    used_s, step, targets = 0.0, 0, 0
    nll_sum, nll_targets, next_line_s, next_score_s = 0.0, 0, 60.0, arguments.score_every_s or math.inf
    while (share := _share_done(arguments, used_s, step)) < 1.0:
        began_s = time.process_time()
        step += 1
        batch = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = arguments.lr * _share_of_peak(step, share, arguments.warmup_steps, arguments.floor)
        hidden_BTD = model(batch.source_BS, batch.source_lengths_B, batch.ids_BT)
        logits_NV = model.logits(hidden_BTD[batch.is_scored_BT])  # nothing is computed for padding
        loss = F.cross_entropy(logits_NV, batch.labels_N, label_smoothing=arguments.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, arguments.clip)
        optimizer.step()
        targets += len(batch.labels_N)
        nll_sum += float(loss.detach()) * len(batch.labels_N)
        nll_targets += len(batch.labels_N)
        used_s += time.process_time() - began_s
        if used_s >= next_line_s:
            print(f"peer: {used_s:6.0f} CPU s, step {step}, train loss {nll_sum / nll_targets:.3f}, "
                  f"{targets / used_s:,.0f} target tokens per CPU second", flush=True)
            nll_sum, nll_targets, next_line_s = 0.0, 0, next_line_s + 60.0
        if used_s >= next_score_s:
            curve.append({"cpu_s": used_s, "steps": step} | scored())
            print(f"peer: {_line(curve[-1])}", flush=True)
            next_score_s += arguments.score_every_s
    return {"cpu_s": used_s, "steps": step, "target_tokens": targets, "target_tokens_per_cpu_s": targets / used_s}


@torch.no_grad()
def valid_loss(model: PeerModel, valid: Pairs, positions: int = 4096) -> dict:
    """Per scored token, label smoothing left out."""
    total, count = 0.0, 0
    for numbers in cut_by_length(valid, torch.arange(len(valid)).numpy(), positions):
        batch = batch_of(valid, numbers)
        hidden_BTD = model(batch.source_BS, batch.source_lengths_B, batch.ids_BT)
        logits_NV = model.logits(hidden_BTD[batch.is_scored_BT])
        total += float(F.cross_entropy(logits_NV, batch.labels_N, reduction="sum"))
        count += len(batch.labels_N)
    return {"valid_nll": total / count, "valid_targets": count}


def translation_scores(model: PeerModel, valid: Pairs, tokenizer, rows: int = 64) -> dict:
    """Greedy; BLEU and chrF over the whole set, by sacrebleu."""
    from sacrebleu.metrics import BLEU, CHRF

    by_length = sorted(range(len(valid)), key=lambda n: len(valid.source_ids[n]))
    written: dict[int, str] = {}
    for start in range(0, len(by_length), rows):
        numbers = by_length[start:start + rows]
        translations = model.greedy(*padded([valid.source_ids[n] for n in numbers]), tokenizer.eot)
        written |= {n: tokenizer.decode(ids) for n, ids in zip(numbers, translations)}
    texts, references = [written[n] for n in range(len(valid))], [valid.targets]
    bleu, chrf = BLEU(), CHRF()
    return {"bleu": bleu.corpus_score(texts, references).score, "chrf": chrf.corpus_score(texts, references).score,
            "bleu_signature": str(bleu.get_signature()), "chrf_signature": str(chrf.get_signature()),
            "samples": texts[:3]}


def _share_done(arguments: argparse.Namespace, used_s: float, step: int) -> float:
    return step / arguments.steps if arguments.steps else used_s / arguments.budget_s


def _share_of_peak(step: int, share: float, warmup_steps: int, floor: float) -> float:
    fall = floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * share))
    return min(1.0, step / max(1, warmup_steps)) * fall


def _groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Norms and biases do not decay."""
    parameters = list(model.parameters())
    return [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]


def _line(scores: dict) -> str:
    return (f"{scores['cpu_s']:.0f} CPU s, {scores['steps']} steps: valid nll {scores['valid_nll']:.3f}, "
            f"BLEU {scores['bleu']:.2f}, chrF {scores['chrf']:.2f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of train.LANGUAGE.gz and val.LANGUAGE.gz")
    parser.add_argument("--languages", nargs=2, default=["en", "de"])
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a vocabulary for both languages")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--budget-s", type=float, help="CPU seconds of training")
    length.add_argument("--steps", type=int, help="or optimizer steps")
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--score-every-s", type=float, help="validate and translate on the way, so often")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=4096, help="of a batch: rows x the longest side (default: 4096)")
    parser.add_argument("--lr", type=float, default=4.0e-3)
    parser.add_argument("--betas", type=float, nargs=2, default=(0.9, 0.98))
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--warmup-steps", type=int, default=200)
    parser.add_argument("--floor", type=float, default=0.02, help="last learning rate, as a share of the peak")
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--label-smoothing", type=float, default=0.1)
    parser.add_argument("--activation", choices=["gelu", "relu"], default="gelu")
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--attention-dropout", type=float, default=0.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
