"""The README's commands exist: each parses, each file that it names is there, and the tree is the tree."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dstrain.__main__ import _parsed

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("dstrain ")])
def test_dstrain_commands_parse(line):
    for_the_shell = re.compile(r" [<>] \S+")
    assert callable(_parsed(shlex.split(for_the_shell.sub("", line), comments=True)[1:]).act)


@pytest.mark.parametrize("line", [line for line in COMMANDS if not line.startswith("dstrain ")])
def test_files_that_commands_name_exist(line):
    named = [word for word in shlex.split(line, comments=True) if re.match(r"(launch|slurm|tests|ds_configs)/", word)]
    assert named and all((ROOT / word).is_file() for word in named)


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links and all((ROOT / link).exists() for link in links)


def test_the_tree_names_what_is_there_and_all_of_it():
    tree = re.search(r"## The tree\n\n```\n(.*?)```", TEXT, flags=re.DOTALL).group(1)
    top = {line.split()[0].rstrip("/") for line in tree.splitlines() if not line.startswith(" ")}
    inside = {line.split()[0].rstrip("/") for line in tree.splitlines() if line.startswith("  ")}
    assert all((ROOT / name).exists() for name in top) and all((ROOT / "dstrain" / name).exists() for name in inside)
    rooms = {path.name for path in (ROOT / "dstrain").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= inside


def test_ranges_of_engine_names_exist():
    for stage in range(4):
        for precision in ("fp32",) if stage == 0 else ("fp32", "bf16", "fp16"):
            assert (ROOT / f"ds_configs/zero{stage}_{precision}.json").is_file()
