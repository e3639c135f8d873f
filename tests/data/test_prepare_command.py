"""`dstrain prepare`: what a user sees, stops and does next."""

import signal
import subprocess
import sys

import pytest
from data_help import write_jsonl

from dstrain.__main__ import main
from dstrain.commands import prepare as command_module
from dstrain.data.preparing.shard_writer import ShardWriter

SMALL = "quickstart"


@pytest.fixture
def sources(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [f"document {n} " + "word " * 50 for n in range(2000)])
    return [f"data.train.0.path={path}", "data.train.0.embedded=null", "data.train.0.part=all",
            f"data.valid.0.path={path}", "data.valid.0.embedded=null", "data.valid.0.part=all"]


def test_it_says_what_was_written_and_the_command_that_trains_from_it(sources, tmp_path, capsys):
    assert main(["prepare", SMALL, *sources, "--out", str(tmp_path / "p")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "tokens in 2,000 documents, 1 shard(s), " in lines[0] and lines[0].startswith("data.train.0 (")
    assert lines[1].startswith("data.valid.0 (")
    assert lines[2].startswith("train from it, with neither text nor network:  dstrain train quickstart data.train.0")
    assert lines[2].endswith(f" data.prepared={tmp_path / 'p'}") and len(lines) == 3


def test_the_folder_is_the_recipes_or_that_of_the_runs_name(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", SMALL, *sources, "run.name=abc"]) == 0
    assert main(["prepare", SMALL, *sources, "data.prepared=there"]) == 0
    assert (tmp_path / "prepared" / "abc" / "prepared.json").is_file()
    assert (tmp_path / "there" / "prepared.json").is_file()
    assert capsys.readouterr().out.splitlines()[-1].count("data.prepared=there") == 1


def test_a_log_gets_plain_lines_with_rate_and_time_left(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_module, "LOG_S", 0.0)
    assert main(["prepare", SMALL, *sources, "--out", str(tmp_path / "p")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " left" in line]
    assert len(lines) == 4000 and "\r" not in "".join(lines) and "\x1b" not in "".join(lines)
    last = lines[1999]
    assert last.startswith("data.train.0 (") and ": 100 %, " in last and " tokens/s, 0 s left" in last


def test_a_terminal_gets_a_line_that_is_redrawn(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_module, "REDRAW_S", 0.0)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["prepare", SMALL, *sources, "--out", str(tmp_path / "p")]) == 0
    drawn = capsys.readouterr().out.split("\r\x1b[2K")
    assert drawn[1010].startswith("[############............] data.train.0 (") and "\n" not in drawn[1010]
    assert drawn[-1].startswith("data.train.0") and drawn[-1].count("\n") == 3  # nothing is left of the bar


def test_ctrl_c_says_that_it_goes_on_and_leaves_nothing_unfinished(sources, tmp_path, monkeypatch, capsys):
    real, calls = ShardWriter.add, [0]

    def interrupted(self, *arguments):
        calls[0] += 1
        if calls[0] == 700:
            signal.raise_signal(signal.SIGINT)
        real(self, *arguments)

    monkeypatch.setattr(ShardWriter, "add", interrupted)
    assert main(["prepare", SMALL, *sources, "--out", str(tmp_path / "p")]) == 130
    assert "stopped by Ctrl-C; the same command goes on after the last whole shard" in capsys.readouterr().out
    assert list((tmp_path / "p" / "data.train.0").iterdir()) == []
    assert main(["prepare", SMALL, *sources, "--out", str(tmp_path / "p")]) == 0
    assert calls[0] == 700 + 4000


def test_a_mistake_is_one_line_and_exit_code_2(sources, tmp_path, capsys):
    assert main(["prepare", SMALL, *sources, "--out", str(tmp_path / "p")]) == 0
    capsys.readouterr()
    assert main(["prepare", SMALL, *sources, "tokenizer=bytes", "data.train.0.text_field=title", "--out",
                 str(tmp_path / "p")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "data.train.0.text_field is 'title', but was 'text' when" in error


def test_it_needs_no_torch(sources, tmp_path):
    lines = [f"import sys; from dstrain.__main__ import main; main(['prepare', 'quickstart', *{sources!r}, "
             f"'--out', {str(tmp_path / 'p')!r}]); assert 'torch' not in sys.modules"]
    assert subprocess.run([sys.executable, "-c", *lines], capture_output=True).returncode == 0
