"""What `--device cuda` would run, as far as a machine without a GPU can show it: ranks, engine file, certificate."""

from __future__ import annotations

import pytest

from dstrain.config.load import load_recipe
from dstrain.doctor.beyond import beyond
from dstrain.doctor.case import Case
from dstrain.doctor.certificate import certificate
from dstrain.doctor.examined import Examined
from dstrain.doctor.finding import Finding
from dstrain.doctor.registry import PROOFS


@pytest.fixture
def case_on(monkeypatch):
    cases = []

    def make(gpus: int, *overrides: str) -> Case:
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        cases.append(Case.of(load_recipe("quickstart", list(overrides)), device="cuda"))
        return cases[-1]

    yield make
    for case in cases:
        case.close()


def test_there_are_as_many_ranks_as_gpus_and_one_alone_is_said(case_on):
    assert case_on(8).worlds == (1, 2) and case_on(2).worlds == (1, 2)
    alone = case_on(1)
    assert alone.worlds == (1,) and "more than 1 rank: there is one GPU here" in alone.not_proven


def test_fp16_is_proven_in_fp16_and_not_taken_out_as_on_a_cpu(case_on):
    case = case_on(1, "engine.config=zero2_fp16")
    config = case.config(case.recipe, 1)
    assert config["fp16"]["enabled"] and config["fp16"]["initial_scale_power"] == 8
    assert case.stage == 2 and case.precision == "bf16" and not any("no CPU" in line for line in case.not_proven)


def test_the_certificate_says_of_each_proof_where_it_ran(case_on):
    case = case_on(1)
    found = [Examined(name, proof.claim, proof.at, Finding(True, "0", "none"), "", 0.1)
             for name, proof in PROOFS.items()]
    written = certificate(load_recipe("quickstart"), found, device=case.device, device_name="a GPU", data_sample="",
                          not_proven=beyond(case.recipe, case.device, case.worlds))
    ran_on = {proof["name"]: proof["device"] for proof in written["proofs"]}
    assert {name for name, device in ran_on.items() if device == "cpu"} == {"labels", "overlap", "continuations"}
    assert not any(line.startswith("CUDA kernels") for line in written["not_proven"])
    assert any("more ranks than 1" in line for line in written["not_proven"])
