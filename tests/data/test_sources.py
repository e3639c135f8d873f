"""From files to documents."""

import gzip
import json

import pytest

from dstrain.config.errors import UserError
from dstrain.config.schema import Source
from dstrain.data.reading.cutting import PIECE_CHARACTERS
from dstrain.data.reading.sources import Corpus, Malformed


def documents(path, **source):
    corpus = Corpus(Source(path=str(path), **source), 0, "train")
    return [(file, number, corpus.text_of(raw)) for file in range(corpus.file_count)
            for number, raw in corpus.documents(file)]


def texts(path, **source):
    return [text.text for _, _, text in documents(path, **source)]


def test_a_text_file_is_one_document_whose_last_piece_alone_ends_it(tmp_path):
    # 10-character lines: 1,638 of them fit 16,384 characters, so 4,000 lines make pieces of 1,638 + 1,638 + 724
    path = tmp_path / "a.txt"
    path.write_text("123456789\n" * 4000)
    found = [text for _, _, text in documents(path)]
    assert [len(text.text) for text in found] == [16_380, 16_380, 7_240]
    assert [text.ends for text in found] == [False, False, True]
    assert "".join(text.text for text in found) == path.read_text()
    assert [number for _, number, _ in documents(path)] == [0, 1, 2]


@pytest.mark.parametrize("size, pieces", [
    (1, 1), (PIECE_CHARACTERS, 1), (PIECE_CHARACTERS + 1, 2), (3 * PIECE_CHARACTERS, 3)])
def test_a_line_longer_than_a_piece_is_cut_where_the_piece_is_full(tmp_path, size, pieces):
    path = tmp_path / "a.txt"
    path.write_text("x" * size)
    found = [text for _, _, text in documents(path)]
    assert [text.ends for text in found] == [False] * (pieces - 1) + [True]
    assert "".join(text.text for text in found) == "x" * size


def test_a_long_line_of_words_is_cut_between_words_so_that_no_word_counts_twice(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(" ".join(["seven77"] * 10_000))
    found = [text for _, _, text in documents(path)]
    assert len(found) == 5 and sum(text.words() for text in found) == 10_000


def test_paragraphs_lines_and_starts_cut_documents_where_they_say(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n = A = \none\ntwo\n\n \n = = B = = \n\nthree\n = C = \nfour")
    assert texts(path, documents="paragraphs") == [" = A = \none\ntwo", " = = B = = ", "three\n = C = \nfour"]
    assert texts(path, documents="lines") == [" = A = ", "one", "two", " = = B = = ", "three", " = C = ", "four"]
    assert texts(path, starts=r" = [^=]") == [" = A = \none\ntwo\n\n \n = = B = = \n\nthree\n", " = C = \nfour"]
    path.write_text("before\n = A = \none\n")
    assert texts(path, starts=r" = [^=]") == ["before\n", " = A = \none\n"]


def test_words_are_counted_as_wikitext_counts_them_however_a_file_is_cut(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one two\nthree\n")  # 3 words and 2 line ends
    for source in ({}, {"documents": "lines"}, {"documents": "paragraphs"}, {"starts": "three"}):
        assert sum(text.words() for _, _, text in documents(path, **source)) == 5


def test_line_ends_and_the_byte_order_mark_of_text_files_are_the_same_on_every_system(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert texts(path) == ["one\ntwo\nthree\n"]


def test_json_documents_are_numbered_by_line_and_keep_their_text_as_it_is(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one\\r\\n"}\r\n\n   \n{"text": ""}\n'
                     b'{"other": 1, "text": "\\ud83d\\ude00"}')
    found = [(number, text.text) for _, number, text in documents(path)]
    assert found == [(0, "one\r\n"), (3, ""), (4, "\U0001F600")]


def test_the_field_that_holds_the_text_can_be_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "no", "body": "yes"}\n')
    assert texts(path, text_field="body") == ["yes"]


@pytest.mark.parametrize("line, reason", [
    (b"{", "not JSON"), (b"[1]", "not an object but list"), (b'{"txt": "a"}', "no field 'text'"),
    (b'{"text": 3}', "not text but int"), (b'{"text": "\xff"}', "not UTF-8"), (b'{"text": "\\ud800"}', "surrogate"),
    (b'{"text": null}', "not text but NoneType"), (b"[" * 100_000, "not JSON")])
def test_a_malformed_line_says_what_is_wrong_with_it(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(Malformed, match=reason):
        documents(path)


def test_packed_files_give_what_plain_ones_give(tmp_path):
    for name, content in (("a.txt", b"one\ntwo\n"), ("a.jsonl", b'{"text": "one"}\n{"text": "two"}\n')):
        (tmp_path / name).write_bytes(content)
        # two members, as `cat a.gz b.gz` makes them:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content[:5]) + gzip.compress(content[5:]))
        assert documents(tmp_path / name) == documents(tmp_path / f"{name}.gz")


def test_a_pattern_lists_its_files_in_one_order_and_numbers_them(tmp_path):
    for name in ("b/2.txt", "a/1.txt", "a.txt", "c.txt.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        data = name.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert texts(tmp_path / "**" / "*.txt*") == ["a/1.txt", "a.txt", "b/2.txt", "c.txt.gz"]
    assert [file for file, _, _ in documents(tmp_path / "**" / "*.txt*")] == [0, 1, 2, 3]


def test_a_name_that_looks_like_a_pattern_is_that_file(tmp_path):
    (tmp_path / "a[1].txt").write_text("one")
    (tmp_path / "a1.txt").write_text("two")
    assert texts(tmp_path / "a[1].txt") == ["one"]


def test_files_are_read_only_when_they_are_asked_for(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl.gz").write_text("no gzip at all")
    corpus = Corpus(Source(path=str(tmp_path / "*")), 0, "train")
    assert [raw.text for _, raw in corpus.documents(0)] == ["one"]
    with pytest.raises(UserError, match="b.jsonl.gz: damaged or cut off"):
        list(corpus.documents(1))


def test_what_is_wrong_with_a_file_is_said_with_its_name(tmp_path):
    with pytest.raises(UserError, match=r"data.train.0.path: '.*none.txt' matches no file"):
        documents(tmp_path / "none.txt")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(UserError, match="a.csv is none of .txt and .jsonl"):
        documents(tmp_path / "a.csv")
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\n\xff\xfe\n")
    with pytest.raises(UserError, match="a.txt: line 3 is not UTF-8"):
        documents(tmp_path / "a.txt")
    whole = gzip.compress(json.dumps({"text": "one " * 1000}).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-10])
    with pytest.raises(UserError, match="a.jsonl.gz: damaged or cut off"):
        documents(tmp_path / "a.jsonl.gz")
    with pytest.raises(UserError, match=r"data.train.0.starts: '\(' is no regular expression"):
        documents(tmp_path / "a.txt", starts="(")


def test_a_file_is_streamed_and_never_held_whole(tmp_path):
    import tracemalloc

    path = tmp_path / "a.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(200):
            stream.write(b"0123456789abcdef" * 6250 + b"\n")  # 20 MB in lines of 100,000 characters
    corpus = Corpus(Source(path=str(path)), 0, "train")
    tracemalloc.start()
    assert sum(len(text.text) for _, text in corpus.documents(0)) == 20_000_200
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_a_pattern_with_two_double_stars_names_each_file_once(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    for place in ("a.txt", "x/b.txt", "x/y/c.txt"):
        (tmp_path / place).write_text("text")
    corpus = Corpus(Source(path=str(tmp_path / "**" / "**" / "*.txt")), 0, "train")
    assert [corpus.where(file, 0).rpartition("/")[2] for file in range(corpus.file_count)] == [
        "a.txt, document 1", "b.txt, document 1", "c.txt, document 1"]


def test_a_file_that_vanished_after_it_was_listed_is_named_by_the_fingerprint_too(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    corpus = Corpus(Source(path=str(tmp_path / "a.txt")), 0, "train")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match="a.txt: cannot be read"):
        corpus.fingerprint


def test_documents_of_text_files_are_not_called_lines(tmp_path):
    for name in ("a.txt", "b.jsonl"):
        (tmp_path / name).write_text("{}")
    corpus = Corpus(Source(path=str(tmp_path / "*")), 0, "train")
    assert corpus.where(0, 4).endswith("a.txt, document 5") and corpus.where(1, 4).endswith("b.jsonl, line 5")
