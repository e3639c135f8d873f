"""The bench of translation: dstrain and its peer train on the same pairs, and the table says what they wrote down."""

from __future__ import annotations

import gzip
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent / "translation")]

import dstrain_side  # noqa: E402
import nn_transformer_peer as peer  # noqa: E402
import side_by_side  # noqa: E402
from peer_data import Pairs, batch_of, cut_by_length, endless_batches, read_pairs  # noqa: E402
from peer_model import PeerModel, Sizes, padded  # noqa: E402

from dstrain.data.tokenizers.encodings import ByteTokenizer  # noqa: E402

SMALL = Sizes(width=16, heads=2, encoder_layers=1, decoder_layers=2, ff=32)
END = 256


@pytest.fixture
def few_pairs(shared_data, tmp_path) -> Path:
    """The first lines of Multi30k."""
    folder = tmp_path / "few"
    folder.mkdir()
    for split, count in (("train", 300), ("val", 12)):
        for language in ("en", "de"):
            name = f"{split}.{language}.gz"
            with gzip.open(shared_data / "multi30k" / name) as whole, gzip.open(folder / name, "w") as part:
                part.writelines(itertools.islice(whole, count))
    return folder


def pairs_of(*lengths: tuple[int, int]) -> Pairs:
    """(source length with its end, target length with its end)."""
    sources = [np.array([65 + n % 26] * (s - 1) + [END]) for n, (s, _) in enumerate(lengths)]
    targets = [np.array([END] + [97 + n % 26] * (t - 1) + [END]) for n, (_, t) in enumerate(lengths)]
    return Pairs([""] * len(lengths), [""] * len(lengths), sources, targets)


@pytest.mark.slow
def test_both_sides_train_on_the_same_pairs_and_the_table_holds_what_they_wrote(few_pairs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    sides = side_by_side.Sides(few_pairs, out, ["schedule.warmup_steps=0"], ["--warmup-steps", "1"], tokens=1024,
                               vocabulary="bpe:400")
    cores = (sorted(side_by_side.os.sched_getaffinity(0)) * 2)[:2]
    assert sides.learn_vocabulary(cores[0]) > 0
    ours, theirs = sides.round("round_1", cores, 3, ["--steps", "3"])
    assert ours["steps"] == theirs["steps"] == 3
    assert ours["valid_targets"] == theirs["valid_targets"] > 12
    for row in (ours, theirs):
        assert row["target_tokens"] == pytest.approx(row["cpu_s"] * row["target_tokens_per_cpu_s"])
        assert 2 * 1024 < 3 * row["target_tokens"] and row["target_tokens"] <= 3 * 1024
        assert 4.0 < row["valid_nll"] < 8.0 and 0 <= row["bleu"] <= 100 and 0 <= row["chrf"] <= 100
    assert ours["scores"]["bleu_signature"] == theirs["bleu_signature"]
    lines = side_by_side.table([{"round": 1, **ours}, {"round": 1, **theirs}])
    assert f"| {ours['parameters']:,} |" in lines[2] and f"| {theirs['valid_nll']:.3f} |" in lines[3]


def test_the_table_compares_round_by_round_and_says_where_the_targets_differ():
    row = {"core": 0, "cpu_s": 10.0, "steps": 5, "parameters": 1000, "bleu": 30.0, "chrf": 50.0, "valid_nll": 2.0,
           "valid_targets": 7, "target_tokens_per_cpu_s": 300.0, "side": "dstrain", "round": 1}
    other = row | {"side": "nn.Transformer", "target_tokens_per_cpu_s": 200.0, "bleu": 28.5, "valid_nll": 2.25}
    lines = side_by_side.table([row, other])
    assert lines[2] == "| 1 | dstrain | 0 | 10.0 | 5 | 1,000 | 300 | 2.000 | 30.00 | 50.00 |"
    assert lines[-1] == ("round 1: dstrain reads 1.50 times the peer's target tokens per CPU second; BLEU +1.50, "
                         "chrF +0.00; valid nll -0.250")
    assert "different targets (7 and 8)" in side_by_side.table([row, other | {"valid_targets": 8}])[-1]


def test_the_clock_counts_from_the_first_step_to_the_last_and_leaves_validations_out():
    now = [0.0]

    def spend(seconds):
        def act():
            now[0] += seconds
        return act

    clock = dstrain_side.TrainingClock(lambda: now[0])
    step, validate, save = clock.step(spend(2.0)), clock.outside(spend(50.0)), spend(1.0)
    spend(30.0)()
    for act in (step, step, save, validate, step, validate, save):
        act()
    assert (clock.steps, clock.cpu_s) == (3, 7.0)


def test_the_peers_batches_hold_every_pair_once_an_epoch_within_the_budget():
    random = np.random.default_rng(3)
    pairs = pairs_of(*random.integers(2, 40, size=(200, 2)).tolist())
    cuts = cut_by_length(pairs, random.permutation(200), 256)
    assert sorted(np.concatenate(cuts).tolist()) == list(range(200))
    areas = []
    for numbers in cuts:
        batch = batch_of(pairs, numbers)
        areas.append(len(numbers) * max(batch.source_BS.shape[1], batch.ids_BT.shape[1]))
    assert max(areas) <= 256 and sum(areas) / len(areas) > 200
    epoch = itertools.islice(endless_batches(pairs, 256, seed=5), len(cuts))
    assert sum(len(batch.labels_N) for batch in epoch) == sum(len(ids) - 1 for ids in pairs.target_ids)


def test_the_peer_scores_each_target_and_its_end_from_its_start_and_its_whole_source():
    batch = batch_of(pairs_of((3, 2), (2, 4)), np.array([0, 1]))
    assert batch.source_BS.tolist() == [[65, 65, END], [66, END, 0]] and batch.source_lengths_B.tolist() == [3, 2]
    assert batch.ids_BT.tolist() == [[END, 97, 0, 0], [END, 98, 98, 98]]
    assert batch.labels_N.tolist() == [97, END, 98, 98, 98, END]


def test_padding_and_neighbours_change_nothing_that_the_peer_computes():
    torch.manual_seed(0)
    model = PeerModel(SMALL, vocab_size=257).double().eval()
    pairs = pairs_of((3, 4), (7, 2), (12, 9))
    together, alone = batch_of(pairs, np.arange(3)), batch_of(pairs, np.array([0]))
    other = together.source_BS.clone()
    other[torch.arange(12) >= together.source_lengths_B[:, None]] = 77
    hidden = [model(batch.source_BS if source is None else source, batch.source_lengths_B, batch.ids_BT)[0, :4]
              for batch, source in ((together, None), (together, other), (alone, None))]
    torch.testing.assert_close(hidden[0], hidden[2], rtol=0, atol=1e-12)
    torch.testing.assert_close(hidden[0], hidden[1], rtol=0, atol=1e-12)


def test_the_peer_learns_pairs_by_heart_and_writes_each_to_its_end_alone_and_beside_others():
    torch.manual_seed(0)
    model, pairs = PeerModel(SMALL, vocab_size=257).eval(), pairs_of((12, 5), (3, 2), (7, 9))
    batch, optimizer = batch_of(pairs, np.arange(3)), torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        hidden_BTD = model(batch.source_BS, batch.source_lengths_B, batch.ids_BT)
        loss = torch.nn.functional.cross_entropy(model.logits(hidden_BTD[batch.is_scored_BT]), batch.labels_N)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected = [ids[1:-1].tolist() for ids in pairs.target_ids]
    assert model.greedy(*padded(pairs.source_ids), END) == expected
    assert [model.greedy(*padded([ids]), END)[0] for ids in pairs.source_ids] == expected
    with torch.no_grad():
        model.embedding.weight[END] = 0.0  # a logit of 0, below the one that it writes: it finds no end
    assert [len(ids) for ids in model.greedy(*padded(pairs.source_ids), END)] == [34, 16, 24]


def test_the_peers_learning_rate_rises_then_falls_to_its_floor_at_the_end_of_the_budget():
    shares = [peer._share_of_peak(step, step / 100, warmup_steps=10, floor=0.1) for step in range(1, 101)]
    assert shares.index(max(shares)) == 9 and shares[0] < 0.11 and shares[-1] == pytest.approx(0.1)


def test_files_with_unlike_numbers_of_lines_are_refused(tmp_path):
    for name, lines in (("train.en.gz", "a\nb\n"), ("train.de.gz", "a\n")):
        with gzip.open(tmp_path / name, "wt") as file:
            file.write(lines)
    with pytest.raises(ValueError, match="2 sources but 1 targets"):
        read_pairs(tmp_path, "train", ("en", "de"), ByteTokenizer())
