"""The tokenizers of pairs: one learned from both sides, or one a side learned from it alone; saved and opened."""

from dataclasses import replace

import pytest
from data_help import recipe_of, write_jsonl
from pairs_help import pair_recipe, parallel

from dstrain.config.errors import UserError
from dstrain.config.translate import PairSource, PairTokenizers
from dstrain.data.tokenizers.bpe import learn_bpe
from dstrain.data.tokenizers.pair_tokenizer import pair_tokenizer

PAIRS = [(f"the cat {n}", f"die katze {n}") for n in range(50)]


def opened(folder, tokenizer, saved=None, said=None, **more):
    recipe = pair_recipe(parallel(folder, PAIRS), tokenizer=tokenizer, **more)
    return pair_tokenizer(recipe, saved, (said if said is not None else []).append)


def spelled(tokenizer):
    return {tokenizer.decode([number]) for number in range(256, tokenizer.vocab_size - 1)}


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file()}


def test_one_vocabulary_is_learned_from_both_sides(tmp_path):
    both, said = opened(tmp_path, "bpe:285", said=(lines := [])), lines
    assert both.source is both.target and both.shared and both.name == "bpe:285"
    assert {" cat", " katze"} <= spelled(both.source)
    assert said[0] == "learning bpe:285 from data.train ..." and "50 documents" in said[1]
    assert both.token_bytes().tolist() == both.target.token_bytes().tolist()


def test_a_vocabulary_a_side_is_learned_from_that_side_alone(tmp_path):
    both = opened(tmp_path, PairTokenizers(source="bpe:264", target="bpe:266"), said=(said := []))
    assert not both.shared and both.name == "bpe:264 (source), bpe:266 (target)"
    assert " cat" in spelled(both.source) and not any("k" in token for token in spelled(both.source))
    assert " katze" in spelled(both.target) and not any("cat" in token for token in spelled(both.target))
    assert "learning bpe:266 from the target side of data.train ..." in said
    assert (len(both.token_bytes()), both.source.eot, both.target.eot) == (266, 263, 265)


def test_the_order_of_languages_decides_which_side_is_which(tmp_path):
    numbers = PairSource(embedded="numbers-en-de", part="valid")
    found = [pair_tokenizer(pair_recipe(numbers, tokenizer=PairTokenizers(source="bpe:300", target="bytes"),
                                        languages=languages), say=lambda line: None).source
             for languages in (("en", "de"), ("de", "en"))]
    assert "hundred" in " ".join(spelled(found[0])) and "hundert" in " ".join(spelled(found[1]))


@pytest.mark.parametrize("asked, files", [
    ("bpe:270", {"tokenizer.json", "tokenizer.tiktoken"}), ("bytes", {"tokenizer.json"}),
    (PairTokenizers(source="bytes", target="bpe:266"),
     {"source/tokenizer.json", "target/tokenizer.json", "target/tokenizer.tiktoken"}),
])
def test_what_was_saved_is_opened_again_without_learning(tmp_path, asked, files):
    first = opened(tmp_path, asked)
    written = first.save(tmp_path / "kept")
    assert {path.relative_to(tmp_path / "kept").as_posix() for path in written} == files
    said = []
    again = opened(tmp_path, asked, tmp_path / "kept", said)
    again.save(tmp_path / "again")
    assert files_in(tmp_path / "kept") == files_in(tmp_path / "again") and not said
    assert again.shared == first.shared and again.name == first.name
    for side in ("source", "target"):
        text = "the cat die katze ü"
        ids = getattr(again, side).encode(text)
        assert ids.tolist() == getattr(first, side).encode(text).tolist() and getattr(again, side).decode(ids) == text


def test_a_side_may_name_a_folder(tmp_path):
    opened(tmp_path, "bpe:270").save(tmp_path / "kept")
    both = opened(tmp_path, PairTokenizers(source=f"{tmp_path}/kept", target="bytes"))
    assert (both.source.name, both.target.name, both.shared) == ("bpe:270", "bytes", False)


def test_a_mistake_names_the_side(tmp_path):
    with pytest.raises(UserError, match=r"^tokenizer.target: 'gpt3' is unknown"):
        opened(tmp_path, PairTokenizers(source="bytes", target="gpt3"))
    with pytest.raises(UserError, match=r"^tokenizer.source: bpe:9000: the text of the source side of data.train"):
        opened(tmp_path, PairTokenizers(source="bpe:9000", target="bytes"))
    with pytest.raises(UserError, match=r"^tokenizer: bpe:9000: the text of data.train yields only"):
        opened(tmp_path, "bpe:9000")


def test_the_same_text_gives_pairs_and_documents_the_same_vocabulary(tmp_path):
    """What documents learn is pinned elsewhere; here: a side alone is learned as documents of its lines are."""
    pairs = opened(tmp_path, PairTokenizers(source="bpe:264", target="bytes")).source
    lines = write_jsonl(tmp_path / "a.jsonl", [source for source, _ in PAIRS])
    documents = learn_bpe(replace(recipe_of(lines), tokenizer="bpe:264"), lambda line: None)
    assert pairs.ranks == documents.ranks
