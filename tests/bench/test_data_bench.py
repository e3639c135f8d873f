"""The bench of the data: every way over a file makes the tokens that it counts."""

from __future__ import annotations

import json

import data
from feeding import Ways


def test_every_way_makes_all_tokens_of_the_file_or_as_many_as_were_asked_for(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": f"line {n} and more"}) + "\n" for n in range(400)))
    tokens = sum(len(f"line {n} and more") for n in range(400))
    ways = Ways(path, None, "bytes", tokens=2_048, rows=8, length=64, folder=tmp_path)
    made = {name: act() for name, act in ways.contenders([1]).items()}
    assert made.pop("tiktoken, one thread, text in memory") == tokens
    assert made.pop("preparing, 1 worker") == tokens + 400  # and an end-of-text each
    assert made.pop("streaming, 1 worker") == made.pop("loading what was prepared") == 2_048
    assert made.pop("streaming, one rank of 8, 1 worker") == 2_048 // 8
    assert made.pop("reading text, no tokens") == tokens
    assert made.pop("reading the file itself") == path.stat().st_size
    assert list(made) == ["memory copy"]


def test_a_rate_is_tokens_over_seconds_and_its_share_that_of_tiktoken(monkeypatch):
    class TwoWays:
        def contenders(self, workers):
            return {data.YARDSTICK: lambda: 300, "streaming": lambda: 100}

    turns = {data.YARDSTICK: [data.Turn(3.0, 2.0)], "streaming": [data.Turn(2.0, 4.0)]}

    def taken(contenders, rounds, say):
        for act in contenders.values():
            act()
        return turns

    monkeypatch.setattr(data, "take_turns", taken)
    found = data.rates(TwoWays(), type("Arguments", (), {"workers": [1], "rounds": 1}))
    assert found["streaming"]["per_s"]["median"] == 50.0 and found["streaming"]["per_cpu_s"]["median"] == 25.0
    assert found["streaming"]["of_tiktoken"]["median"] == 0.5
