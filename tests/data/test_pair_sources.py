"""Where pairs come from: parallel text, .tsv, .jsonl; whole and in order, or a clear reason why not."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from pairs_help import pair_recipe, parallel

from dstrain.config.errors import UserError
from dstrain.config.schema import Source
from dstrain.config.translate import PairSource
from dstrain.data.reading.spelled_numbers import chosen_numbers, german
from dstrain.data.reading import pair_files
from dstrain.data.reading.pair_sources import PairCorpus, open_corpus, pairs_bytes
from dstrain.data.reading.sources import Corpus
from dstrain.data.reading.text import Malformed

ROOT = Path(__file__).resolve().parents[2]


def corpus_of(languages=("en", "de"), **source):
    return PairCorpus(PairSource(**source), 0, "train", languages)


def pairs_in(corpus):
    """(file, number, source, target), (file, number, why not), or (file, number) where both sides are blank."""
    found = []
    for file in range(corpus.file_count):
        for number, raw in corpus.documents(file):
            try:
                pair = corpus.text_of(raw)
                found.append((file, number, *((pair.source, pair.target) if pair else ())))
            except Malformed as reason:
                found.append((file, number, str(reason)))
    return found


def parallel_files(folder, source: bytes, target: bytes, ending=""):
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[ending]
    for name, data in (("a.en", source), ("a.de", target)):
        (folder / f"{name}{ending}").write_bytes(pack(data))
    return {"source_path": str(folder / f"a.en{ending}"), "target_path": str(folder / f"a.de{ending}")}


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_line_n_of_the_one_file_and_line_n_of_the_other_are_a_pair(tmp_path, ending):
    corpus = corpus_of(**parallel_files(tmp_path, "one\ntwö\nthree".encode(), "eins\nzwei\ndrei\n".encode(), ending))
    assert pairs_in(corpus) == [(0, 0, "one", "eins"), (0, 1, "twö", "zwei"), (0, 2, "three", "drei")]
    assert corpus.where(0, 1) == f"{tmp_path}/a.en{ending} and {tmp_path}/a.de{ending}, line 2"


def test_a_byte_order_mark_and_line_ends_of_either_kind_are_no_text(tmp_path):
    source, target = b"\xef\xbb\xbfone\r\ntwo\n", b"\xef\xbb\xbfeins\nzwei\r\n"
    assert pairs_in(corpus_of(**parallel_files(tmp_path, source, target))) == [
        (0, 0, "one", "eins"), (0, 1, "two", "zwei")]


def test_nothing_but_a_line_feed_ends_a_line(tmp_path):
    # each of these ends a line for Python's splitlines, and would move one side against the other
    odd = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh"
    corpus = corpus_of(**parallel_files(tmp_path, f"{odd}\ntwo\n".encode(), b"eins\nzwei\n"))
    assert pairs_in(corpus) == [(0, 0, odd, "eins"), (0, 1, "two", "zwei")]
    path = tmp_path / "a.tsv"
    path.write_bytes(f"{odd}\teins\ntwo\tzwei\n".encode())
    assert pairs_in(corpus_of(path=str(path))) == [(0, 0, odd, "eins"), (0, 1, "two", "zwei")]


def test_a_line_that_is_blank_on_both_sides_is_passed_over_and_on_one_it_is_malformed(tmp_path):
    corpus = corpus_of(**parallel_files(tmp_path, b"one\n\n \nfour\n\n\xc2\xa0\n", b"eins\n\nx\n\n\t\n\xe2\x80\x83\n"))
    assert pairs_in(corpus) == [(0, 0, "one", "eins"),
                                (0, 2, "the side 'en' is empty, and the other one is not"),
                                (0, 3, "the side 'de' is empty, and the other one is not"), (0, 5)]


def test_bytes_that_are_no_utf8_are_malformed_and_the_next_line_is_not(tmp_path):
    corpus = corpus_of(**parallel_files(tmp_path, b"one\n\xff\xfe\nthree\n", b"eins\nzwei\ndr\xc3\n"))
    assert [row[:2] for row in pairs_in(corpus)] == [(0, 0), (0, 1), (0, 2)]
    assert [row[2] for row in pairs_in(corpus)][1:] == [
        "the side 'en' is not UTF-8 (invalid start byte at byte 0)",
        "the side 'de' is not UTF-8 (unexpected end of data at byte 2)"]


@pytest.mark.parametrize("lines, others", [(5, 3), (3, 5), (1, 0), (4, 5)])
def test_files_of_different_numbers_of_lines_are_refused_at_once_with_both_counts(tmp_path, lines, others, monkeypatch):
    paths = parallel_files(tmp_path, b"a\n" * lines, b"b\n" * others)
    said = (rf"data.train.0: .*a.en has {lines} line\(s\), and .*a.de has {others}, but line n of the one and line n")
    with pytest.raises(UserError, match=said) as error:
        corpus_of(**paths)
    assert "\n" not in str(error.value)
    monkeypatch.setattr(pair_files, "COUNTED_AT_ONCE_BYTES", 0)   # too large to be counted at the start
    corpus = corpus_of(**paths)
    with pytest.raises(UserError, match=said):
        pairs_in(corpus)


def test_patterns_pair_files_by_the_order_of_their_names(tmp_path):
    for name in ("1", "2"):
        parallel(tmp_path, [(f"en{name}", f"de{name}")], name)
    both = {"source_path": str(tmp_path / "*.en"), "target_path": str(tmp_path / "*.de")}
    assert pairs_in(corpus_of(**both)) == [(0, 0, "en1", "de1"), (1, 0, "en2", "de2")]
    (tmp_path / "2.de").unlink()
    with pytest.raises(UserError, match=r"names 2 file\(s\), but target_path .* names 1"):
        corpus_of(**both)


def test_columns_of_a_tsv_are_taken_as_they_stand(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b'\xef\xbb\xbfid\t"one\tein"s\t\r\n\n2\ttwo\tzwei\tmore\n3\tthree\n4\t\tvier\n')
    assert pairs_in(corpus_of(path=str(path), columns=(1, 2))) == [
        (0, 0, '"one', 'ein"s'), (0, 2, "two", "zwei"), (0, 3, "has 2 column(s), so none with number 2 (from 0)"),
        (0, 4, "the side 'en' is empty, and the other one is not")]
    assert pairs_in(corpus_of(path=str(path), columns=(2, 0)))[1] == (0, 2, "zwei", "2")
    assert corpus_of(path=str(path)).where(0, 3) == f"{path}, line 4"


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_a_jsonl_record_has_its_languages_in_translation_or_at_the_top(tmp_path, ending):
    path = tmp_path / f"a.jsonl{ending}"
    records = [{"translation": {"en": "one", "de": "eins", "fr": "un"}, "id": 7}, {"de": "zwei", "en": "two"},
               {"translation": "a note", "en": "three", "de": "drei"}]
    data = "".join(json.dumps(record) + "\n" for record in records).encode() + b"\n"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[ending](data))
    assert pairs_in(corpus_of(path=str(path))) == [
        (0, 0, "one", "eins"), (0, 1, "two", "zwei"), (0, 2, "three", "drei")]
    assert pairs_in(corpus_of(("de", "en"), path=str(path)))[0] == (0, 0, "eins", "one")


@pytest.mark.parametrize("line, reason", [
    (b'{"en": "one"}', "no field 'de'"), (b'{"translation": {"en": "one"}, "de": "eins"}', "no field 'de'"),
    (b'{"en": "one", "de": 1}', "field 'de' is not text but int"), (b'{"en": "one", ', "not JSON"),
    (b'["one", "eins"]', "not an object but list"), (b'{"en": "one", "de": "\xff"}', "not UTF-8"),
    (b'{"en": "one", "de": "\\ud800"}', "the side 'de' holds half a surrogate pair at character 0"),
    (b'{"en": null, "de": "eins"}', "field 'en' is not text but NoneType"),
    (b'{"en": "  ", "de": "eins"}', "the side 'en' is empty"), (b'{"en": "", "de": ""}', None),
])
def test_a_line_that_is_no_pair_says_why(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b"\n" + b'{"en": "two", "de": "zwei"}\n')
    first, second = pairs_in(corpus_of(path=str(path)))
    assert second == (0, 1, "two", "zwei")
    assert first == (0, 0) if reason is None else first[2].startswith(reason), first


def test_a_damaged_or_missing_file_is_the_user_s_error_and_the_right_one_is_named(tmp_path, monkeypatch):
    paths = parallel_files(tmp_path, b"one\n" * 99, b"eins\n" * 99, ".gz")
    for path in map(Path, paths.values()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-9])
        with pytest.raises(UserError, match=f"^{path}: damaged or cut off"):
            corpus_of(**paths)
        with monkeypatch.context() as patched:
            patched.setattr(pair_files, "COUNTED_AT_ONCE_BYTES", 0)
            with pytest.raises(UserError, match=f"^{path}: damaged or cut off"):
                pairs_in(corpus_of(**paths))
        path.write_bytes(whole)
    Path(paths["target_path"]).unlink()
    with pytest.raises(UserError, match="data.train.0.target_path: .* matches no file"):
        corpus_of(**paths)


def test_the_fingerprint_is_of_both_sides(tmp_path):
    paths = parallel_files(tmp_path, b"one\ntwo\n", b"eins\nzwei\n")
    before = corpus_of(**paths).fingerprint
    assert before["count"] == 1 and corpus_of(**paths).fingerprint == before
    for name in ("a.en", "a.de"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data.upper())
        assert corpus_of(**paths).fingerprint != before
        (tmp_path / name).write_bytes(data)


def test_the_size_of_the_targets_is_known_of_parallel_text_and_numbers(tmp_path):
    text, numbers = parallel(tmp_path, [("one", "eins"), ("two", "zwei")]), PairSource(embedded="numbers-en-de")
    assert pairs_bytes(pair_recipe(text)) == 10
    spelled = sum(len(german(number).encode()) for number in chosen_numbers("all"))
    assert pairs_bytes(pair_recipe(text, numbers)) == 10 + spelled > 1_000_000
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\n")
    assert pairs_bytes(pair_recipe(text, PairSource(path=str(path)))) is None


def test_sources_of_both_families_are_opened_by_one_function_and_without_torch(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "en": "one", "de": "eins"}\n')
    assert isinstance(open_corpus(Source(path=str(path)), 0, "train"), Corpus)
    assert isinstance(open_corpus(PairSource(path=str(path)), 0, "valid", ("en", "de")), PairCorpus)
    program = ("import sys\nfrom dstrain.data.reading.pair_sources import open_corpus\n"
               "assert 'torch' not in sys.modules and 'datasets' not in sys.modules")
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
