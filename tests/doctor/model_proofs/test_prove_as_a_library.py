"""`from dstrain.doctor import prove`: what it takes, what it says of wrong use, and that it leaves no trace."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from dstrain.config.errors import UserError
from dstrain.doctor import prove
from dstrain.doctor.faults.toys import (END, LENGTHS, LONGEST, VOCAB, Decoder, EncoderDecoder, Out, ThreeHeads, ahead,
                                        continued, evaluated, lm_batch, pair_batch, seeded)
from dstrain.doctor.faults.wrong_models import NotShifted
from dstrain.doctor.foreign import Foreign, subject_of

IDS = {"ids": "ids", "lengths": "lengths"}


class AsOthersNameIt(Decoder):
    """Called as models of `transformers` are."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Out:
        out = super().forward(input_ids, attention_mask.sum(1), labels)
        return Out(out.loss, out.logits[0])


class PairsAsOthersNameThem(EncoderDecoder):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor,
                decoder_attention_mask: Tensor, labels: Tensor) -> Out:
        return super().forward(input_ids, attention_mask.sum(1), decoder_input_ids, decoder_attention_mask.sum(1),
                               labels)


def masked(number: int) -> dict[str, Tensor]:
    batch = lm_batch(number)
    return {"input_ids": batch["ids"], "attention_mask": mask_of(batch["lengths"]), "labels": batch["labels"]}


def masked_pairs(number: int) -> dict[str, Tensor]:
    batch = pair_batch(number)
    return {"input_ids": batch["source"], "attention_mask": mask_of(batch["source_lengths"]),
            "decoder_input_ids": batch["ids"], "decoder_attention_mask": mask_of(batch["lengths"]),
            "labels": batch["labels"]}


def mask_of(lengths: Tensor) -> Tensor:
    return (torch.arange(LONGEST) < lengths[:, None]).long()


def test_with_the_usual_names_nothing_has_to_be_said():
    assert prove(seeded(AsOthersNameIt), masked).passed
    assert prove(seeded(PairsAsOthersNameThem), masked_pairs).passed


def test_of_several_batches_one_with_padding_is_taken():
    asked = []

    def batches(number: int) -> dict[str, Tensor]:
        asked.append(number)
        batch = lm_batch(number)
        if number < 2:
            return {**batch, "lengths": torch.full_like(batch["lengths"], LONGEST), "labels": batch["ids"]}
        return batch

    assert prove(seeded(Decoder), batches, only=["padding"], **IDS).passed
    assert asked == [0, 1, 2]


def test_a_function_of_ones_own_runs_the_module():
    def run(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        out = model(batch["ids"], batch["lengths"], batch["labels"])
        return out.loss, out.logits[0]

    assert prove(seeded(Decoder), lm_batch, run=run, only=["targets", "future"], **IDS).passed


def test_the_table_says_of_each_proof_what_was_found_and_how_long_it_took():
    report = prove(seeded(NotShifted), lm_batch, only=["future", "targets", "documents"], **IDS)
    text = str(report)
    assert "proven      future" in text and "FAILED      targets" in text and "not proven  documents" in text
    assert "(not shifted)" in text and "remedy" in text and " s\n" in text
    assert report.failed == ["targets"] and not report.passed and report["future"].passed


def test_weights_that_are_trained_have_no_first_loss():
    report = prove(seeded(Decoder), lm_batch, fresh=False, only=["first_loss", "future"], **IDS)
    assert report.not_proven == {"first_loss": "the weights are not initial ones (fresh=False)"}
    assert report.passed


def test_the_module_is_left_exactly_as_it_was():
    model = seeded(ThreeHeads)
    model.layers[0].eval()
    model.outputs[1].requires_grad_(False)
    for parameter in model.layers.parameters():
        parameter.grad = torch.ones_like(parameter)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    grads = {name: None if p.grad is None else (p.grad, p.grad.clone()) for name, p in model.named_parameters()}
    trained = [parameter.requires_grad for parameter in model.parameters()]
    generator = torch.get_rng_state()

    prove(model, lm_batch, evaluate=lambda m: m.eval(), **IDS)

    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (grads[name] is None)
        if parameter.grad is not None:
            assert parameter.grad is grads[name][0] and torch.equal(*grads[name])
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_an_interrupted_proof_puts_the_weights_back(monkeypatch):
    from dstrain.doctor.model_proofs import by_heart
    model, calls = seeded(Decoder), []
    state = {name: value.clone() for name, value in model.state_dict().items()}
    whole = by_heart.pass_through

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(by_heart, "pass_through", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prove(model, lm_batch, only=["by_heart"], **IDS)
    assert len(calls) == 4
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_proof_that_breaks_is_no_proof_and_the_others_still_run():
    class Breaking(Decoder):
        def forward(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> Out:
            if not self.training:
                raise OSError("no eval mode here")
            return super().forward(ids, lengths, labels)

    report = prove(seeded(Breaking), lm_batch, only=["first_loss", "arguments"], **IDS)
    assert report.failed == ["first_loss"] and report["arguments"].passed
    assert "no eval mode here" in report["first_loss"].finding.figure


class Flat(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        return ids.float().sum()


WRONG = {
    "no module": (lambda: prove(3, lm_batch), "module: int is no torch.nn.Module"),
    "no tensors": (lambda: prove(seeded(Decoder), {"ids": [1, 2]}, **IDS),
                   "batches: a batch has to be tensors by name"),
    "ids": (lambda: prove(seeded(Decoder), lm_batch), "ids: the batch has no 'input_ids', only ids, lengths, labels"),
    "lengths": (lambda: prove(seeded(Decoder), lm_batch, ids="ids", lengths="length"),
                "lengths: the batch has no 'length', only ids, lengths, labels"),
    "shape of lengths": (lambda: prove(seeded(Decoder), lm_batch, ids="ids", lengths=torch.ones(3)),
                         "lengths: of shape [3]; it has to be [6] lengths up to 12"),
    "padding on the left": (lambda: prove(seeded(AsOthersNameIt), left_padded), "rows have to be padded on the right"),
    "source": (lambda: prove(seeded(Decoder), lm_batch, source="words", **IDS), "source: the batch has no 'words'"),
    "segments": (lambda: prove(seeded(Decoder), lm_batch, segments="lengths", **IDS),
                 "segments: 'lengths' is torch.int64 [6]"),
    "call": (lambda: prove(Flat(), lm_batch, **IDS), "run: the module cannot be called with ids, lengths, labels"),
    "result": (lambda: prove(Flat(), {"ids": lm_batch(0)["ids"]}, ids="ids"), "run: Tensor has no .loss and .logits"),
    "no loss": (lambda: prove(seeded(Decoder), lm_batch, run=lambda m, b: (None, m(**b).logits), **IDS),
                "run: the loss and the logits have to be tensors: are the labels in the batch?"),
    "many losses": (lambda: prove(seeded(Decoder), lm_batch, run=lambda m, b: (torch.ones(2), m(**b).logits), **IDS),
                    "run: the loss has the shape [2]"),
    "short logits": (lambda: prove(seeded(Decoder), lm_batch, run=one_short, **IDS),
                     "run: logits of head 1 have the shape [6, 11, 13]; 'ids' wants [6, 12, vocabulary]"),
    "weights": (lambda: prove(seeded(ThreeHeads), lm_batch, weights=(1.0,), **IDS), "weights: 1 numbers for 3 heads"),
    "targets": (lambda: prove(seeded(Decoder), lm_batch, targets=lambda batch: batch["ids"][:, 1:], **IDS),
                "targets: tensors of shapes [[6, 11]] for 1 head(s) of [6, 12]"),
    "vocabulary": (lambda: prove(seeded(Decoder), lm_batch, vocab_size=99, **IDS),
                   "vocab_size: 99, but there are 13 logits"),
    "only": (lambda: prove(seeded(Decoder), lm_batch, only=["futur"], **IDS), "only: 'futur' is none of arguments"),
    "only one": (lambda: prove(seeded(Decoder), lm_batch, only="future", **IDS), "only: 'future' has to be a list"),
    "no function": (lambda: prove(seeded(Decoder), lm_batch, only=["cache"], **IDS),
                    "only: the proof 'cache' needs generate="),
    "generated": (lambda: prove(seeded(Decoder), lm_batch, only=["cache"], generate=lambda m, p, n: [1], **IDS),
                  "generate: it has to give ids [rows, tokens]"),
}


def left_padded(number: int) -> dict[str, Tensor]:
    return {name: tensor.flip(1) for name, tensor in masked(number).items()}


def one_short(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    out = model(**batch)
    return out.loss, out.logits[0][:, 1:]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_said_in_one_line(name):
    call, said = WRONG[name]
    with pytest.raises(UserError) as raised:
        call()
    assert said in str(raised.value) and "\n" not in str(raised.value)


def subject(batch: dict[str, Tensor], **told):
    fields = dict.fromkeys(Foreign._fields) | {"ids": "ids", "lengths": "lengths", "smoothing": 0.0, "frozen": (),
                                               "exact": False} | told
    model = seeded(EncoderDecoder if "source" in batch else Decoder)
    return subject_of(model, batch, Foreign(**fields))


def test_targets_are_found_from_the_ids_and_not_from_the_labels():
    batch = lm_batch(0)
    expected = ahead(batch["ids"].where(torch.arange(LONGEST) < batch["lengths"][:, None], -100), 1)
    wrong = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    for one in (batch, wrong):
        assert torch.equal(subject(one).targets[0], expected)


def test_a_decoders_last_target_is_its_end():
    batch = pair_batch(0)
    sides = {"source": "source", "source_lengths": "source_lengths"}
    assert torch.equal(subject(batch, end=END, **sides).targets[0], batch["labels"])
    assert torch.equal(subject(batch, **sides).targets[0], batch["labels"])
    other = subject(batch, end=7, **sides).targets[0]
    assert other[range(len(LENGTHS)), batch["lengths"] - 1].tolist() == [7] * len(LENGTHS)


def test_without_a_mask_a_decoders_rows_end_with_their_labels():
    """A -100 in between, such as a part that is not scored, ends no row."""
    labels = torch.tensor([[5, 6, 1, -100], [5, -100, 1, 2]])
    batch = {"source": torch.tensor([[3, 4], [4, 3]]), "source_lengths": torch.tensor([2, 2]), "labels": labels,
             "decoder_input_ids": torch.tensor([[0, 5, 6, 1], [0, 5, 6, 1]])}
    told = dict.fromkeys(Foreign._fields) | {"source": "source", "source_lengths": "source_lengths", "smoothing": 0.0,
                                             "frozen": (), "exact": False, "run": run_pairs}
    found = subject_of(seeded(EncoderDecoder), batch, Foreign(**told))
    assert found.lengths_B.tolist() == [3, 4]
    assert found.targets[0].tolist() == [[5, 6, 1, -100], [5, 6, 1, 2]]


def run_pairs(model: nn.Module, batch: dict[str, Tensor]) -> Out:
    return model(batch["source"], batch["source_lengths"], batch["decoder_input_ids"],
                 torch.tensor([4] * len(batch["source"])), batch["labels"])


def test_importing_the_doctor_imports_no_torch_until_it_is_asked_to_prove():
    code = ("import sys, dstrain.doctor; assert 'torch' not in sys.modules; import dstrain.doctor.library; "
            "from dstrain.doctor import prove; assert callable(prove)")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_own_evaluation_and_generation_are_proven_when_they_are_given():
    report = prove(seeded(Decoder), lm_batch, generate=continued, evaluate=evaluated, **IDS)
    assert [one.name for one in report.examined][-2:] == ["cache", "mode"]
    assert "cache" not in [one.name for one in prove(seeded(Decoder), lm_batch, only=["future"], **IDS).examined]


def test_generation_may_end_where_the_text_ends():
    """What stands after an end is filling, whatever it is."""
    def filled(model: nn.Module, prompt: dict[str, Tensor], new_tokens: int) -> Tensor:
        ids, size = continued(model, prompt, new_tokens), prompt["ids"].shape[1]
        new = ids[:, size:]
        after = (new == END).long().cumsum(1) - (new == END).long() > 0
        return torch.cat([ids[:, :size], new.masked_fill(after, VOCAB - 1)], dim=1)

    always_ends = seeded(Decoder)
    with torch.no_grad():
        always_ends.norm.bias.fill_(1.0)
        always_ends.outputs[0].weight[END] = 1.0
    assert prove(always_ends, lm_batch, generate=filled, end=END, only=["cache"], **IDS).passed
    assert not prove(always_ends, lm_batch, generate=filled, only=["cache"], **IDS).passed
