"""Models of `transformers`, which this project did not write: what the doctor finds, and why each red one is red."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dstrain.doctor import prove
from dstrain.doctor.library import Report

transformers = pytest.importorskip("transformers", reason="transformers is not installed: no public models to try")

VOCAB, PAD, END, START = 40, 0, 1, 2
SIZES = {"vocab_size": VOCAB, "pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(n_positions=32, n_embd=16, n_layer=2, n_head=2, **SIZES)
    return transformers.GPT2LMHeadModel(config)


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=32,
        **SIZES))


def mixtral() -> nn.Module:
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=32, **SIZES))


def bart() -> nn.Module:
    return transformers.BartForConditionalGeneration(transformers.BartConfig(
        d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=32, decoder_start_token_id=START,
        forced_eos_token_id=None, **SIZES))


def t5() -> nn.Module:
    """It starts its decoder with the pad's id, as it was trained to."""
    return transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=PAD, eos_token_id=END,
        decoder_start_token_id=PAD))


DECODERS, PAIRED = (gpt2, llama, mixtral), (bart, t5)


def texts(number: int, lengths: tuple[int, ...] = (12, 7, 9, 5)) -> dict[str, torch.Tensor]:
    """Rows of tokens with an end, padded on the right; labels are the ids, -100 in padding."""
    generator, slots_T = torch.Generator().manual_seed(number), torch.arange(max(lengths))
    lengths_B1 = torch.tensor(lengths)[:, None]
    ids = torch.randint(3, VOCAB, (len(lengths), max(lengths)), generator=generator)
    ids = ids.masked_fill(slots_T == lengths_B1 - 1, END).masked_fill(slots_T >= lengths_B1, PAD)
    return {"input_ids": ids, "attention_mask": (slots_T < lengths_B1).long(),
            "labels": ids.masked_fill(slots_T >= lengths_B1, -100)}


def pairs(number: int) -> dict[str, torch.Tensor]:
    return {**texts(number), "labels": texts(number + 100, (8, 10, 6, 9))["labels"]}


def batches_of(build) -> object:
    return texts if build in DECODERS else pairs


def greedy(model: nn.Module, prompt: dict[str, torch.Tensor], new_tokens: int) -> torch.Tensor:
    return model.generate(**prompt, max_new_tokens=new_tokens, do_sample=False, pad_token_id=PAD)


def built(build, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build()


def finding(report: Report, name: str) -> object:
    return report[name].finding


@pytest.mark.parametrize("build", [*DECODERS, *PAIRED])
def test_a_public_model_with_right_batches_is_proven(build):
    report = prove(built(build), batches_of(build), generate=greedy, end=END)
    assert report.passed, str(report)
    no_float64 = {"derivative"} if build is mixtral else set()  # of its grouped product of matrices
    assert set(report.not_proven) == {"documents"} | no_float64


@pytest.mark.parametrize("build", [*DECODERS, *PAIRED])
@pytest.mark.parametrize("seed", [1, 2])
def test_other_seeds_raise_no_false_alarm(build, seed):
    batches = batches_of(build)
    report = prove(built(build, seed), lambda number: batches(10 * seed + number), end=END)
    assert report.passed, str(report)


@pytest.mark.parametrize("build", PAIRED)
def test_an_encoder_without_its_mask_attends_to_padding(build):
    """Red, and rightly: these models take a missing mask for no padding."""
    report = prove(built(build), pairs_without_mask, source_lengths=torch.tensor((12, 7, 9, 5)), end=END,
                   only=["padding", "neighbours"])
    assert report.failed == ["padding"]
    assert "padding of input_ids is attended to" in finding(report, "padding").cause


def pairs_without_mask(number: int) -> dict[str, torch.Tensor]:
    batch = pairs(number)
    del batch["attention_mask"]
    return batch


def test_the_usual_collator_with_pad_as_end_never_scores_an_end():
    """Red, and rightly: DataCollatorForLanguageModeling writes -100 wherever the pad's id stands, and GPT-2's usual
    pad is its end of text."""
    from tokenizers import Tokenizer, models
    inner = Tokenizer(models.WordLevel({"<end>": END, **{str(n): n for n in range(VOCAB) if n != END}}, unk_token="3"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")
    rows = [{"input_ids": ids[mask.bool()].tolist()} for ids, mask in
            zip(*(texts(0)[name] for name in ("input_ids", "attention_mask")))]
    batch = dict(transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)(rows))
    report = prove(built(gpt2), batch)
    assert report.failed == ["targets"]
    assert finding(report, "targets").cause == "all 4 ends are not scored"


def test_a_balance_of_experts_is_a_further_term_of_the_loss():
    """Red, since what is logged is not the cross-entropy; shown without it, all is green."""
    model = built(mixtral)
    model.config.output_router_logits = True
    report = prove(model, texts, only=["targets", "padding"])
    assert report.failed == ["targets"]
    assert "the gradient is right" in finding(report, "targets").cause
    assert "a further term in it" in finding(report, "targets").cause

    def without_it(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        out = model(**batch)
        return out.loss - model.config.router_aux_loss_coef * out.aux_loss, out.logits

    assert prove(model, texts, run=without_it, only=["targets"]).passed


def test_a_balance_of_experts_without_the_mask_counts_padding():
    model = built(mixtral)
    model.config.output_router_logits = True
    report = prove(model, texts_without_mask, lengths=torch.tensor((12, 7, 9, 5)), only=["padding"])
    assert report.failed == ["padding"]


def texts_without_mask(number: int) -> dict[str, torch.Tensor]:
    batch = texts(number)
    del batch["attention_mask"]
    return batch


def test_the_decoders_are_right_without_a_mask_where_padding_is_on_the_right():
    for build in DECODERS:
        report = prove(built(build), texts_without_mask, lengths=torch.tensor((12, 7, 9, 5)),
                       only=["future", "padding", "neighbours", "targets"])
        assert report.passed, str(report)


def test_a_model_turned_to_bf16_has_norms_that_stand_still():
    """Red, and rightly, unless the optimizer keeps float32 weights."""
    report = prove(built(llama).to(torch.bfloat16), texts, only=["gradients", "targets", "future"])
    assert report.failed == ["gradients"]
    assert "5 too large for their 16 bits to move" in finding(report, "gradients").figure


def test_labels_that_were_shifted_before_are_shifted_twice():
    def shifted(number: int) -> dict[str, torch.Tensor]:
        batch = texts(number)
        return {**batch, "labels": torch.cat([batch["labels"][:, 1:], torch.full((4, 1), -100)], dim=1)}

    report = prove(built(llama), shifted, only=["targets"])
    assert "learn the token 2 ahead instead of 1 (shifted twice)" in finding(report, "targets").cause


def test_labels_with_pads_instead_of_ignored_places_score_padding():
    report = prove(built(gpt2), lambda number: {**texts(number), "labels": texts(number)["input_ids"]},
                   only=["targets"])
    assert "15 targets in padding are scored" in finding(report, "targets").cause
