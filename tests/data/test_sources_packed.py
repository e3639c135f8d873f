"""zstd and parquet: the same documents as from plain files, in constant memory, and a clear word when damaged."""

import gzip
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from dstrain.config.errors import UserError
from dstrain.config.schema import Source
from dstrain.data.reading.sources import Corpus, Malformed
from dstrain.data.reading.unpacked import text_bytes_in


def corpus_of(path, **source):
    return Corpus(Source(path=str(path), **source), 0, "train")


def texts(path, first=0, **source):
    corpus = corpus_of(path, **source)
    return {number: corpus.text_of(raw).text for number, raw in corpus.documents(0, first)}


def zst(data: bytes, **options) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def words(count: int) -> bytes:
    numbers = random.Random(1)
    return b"".join(b"%d\n" % numbers.randrange(10**9) for _ in range(count))


def parquet(path, column, rows_per_group=4, **options):
    table = pa.table(column if isinstance(column, dict) else {"other": list(range(len(column))), "text": column})
    pq.write_table(table, path, row_group_size=rows_per_group, **options)
    return path


def test_zst_files_of_any_number_of_frames_give_what_plain_ones_give(tmp_path):
    content = b'{"text": "one"}\n{"text": "two"}\n'
    (tmp_path / "a.jsonl").write_bytes(content)
    skippable = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"     # as pzstd writes them
    stream = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(stream, closefd=False) as writer:  # does not tell its size
        writer.write(content)
    for packed in (zst(content), zst(content[:5]) + zst(content[5:]), skippable + zst(content) + skippable,
                   stream.getvalue()):
        (tmp_path / "a.jsonl.zst").write_bytes(packed)
        assert texts(tmp_path / "a.jsonl.zst") == texts(tmp_path / "a.jsonl") == {0: "one", 1: "two"}


def test_a_zst_file_cut_off_at_any_byte_is_never_taken_for_a_whole_one(tmp_path):
    packed = zst(words(300), level=1, write_checksum=True)
    path = tmp_path / "a.txt.zst"
    for length in range(1, len(packed), 7):
        path.write_bytes(packed[:length])
        with pytest.raises(UserError, match=r"a.txt.zst: damaged or cut off .*; fetch or pack it again"):
            texts(path)
    path.write_bytes(packed + packed[:-1])  # the second frame
    with pytest.raises(UserError, match="damaged or cut off"):
        texts(path)
    path.write_bytes(packed[:200] + b"\0\0\0\0" + packed[204:])
    with pytest.raises(UserError, match="damaged or cut off"):
        texts(path)


def test_zst_files_are_streamed_in_2_mb_however_tightly_they_are_packed(tmp_path):
    import tracemalloc

    for data in ((b"0123456789abcdef" * 6250 + b"\n") * 200, words(800_000)):   # 99.99 % and 50 % are saved
        path = tmp_path / "a.txt.zst"
        path.write_bytes(zst(data, level=1))
        corpus = corpus_of(path)
        tracemalloc.start()
        assert sum(len(raw.text) for _, raw in corpus.documents(0)) == len(data)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()


def test_endings_in_capitals_are_read_and_one_pattern_may_mix_formats(tmp_path):
    (tmp_path / "a.TXT").write_text("one")
    (tmp_path / "b.JSONL.GZ").write_bytes(gzip.compress(b'{"text": "two"}'))
    (tmp_path / "c.Txt.Zst").write_bytes(zst(b"three"))
    parquet(tmp_path / "d.PARQUET", ["four"])
    corpus = corpus_of(tmp_path / "*")
    assert [corpus.text_of(raw).text for file in range(corpus.file_count) for _, raw in corpus.documents(file)] == [
        "one", "two", "three", "four"]
    assert [corpus.where(file, 3).rpartition("/")[2] for file in range(4)] == [
        "a.TXT, document 4", "b.JSONL.GZ, line 4", "c.Txt.Zst, document 4", "d.PARQUET, row 3 (from 0)"]


def test_a_folder_is_no_file_and_the_error_says_which_pattern_would_read_it(tmp_path):
    with pytest.raises(UserError, match=r"data.train.0.path: .* is a folder; say which .*\*\.jsonl"):
        corpus_of(tmp_path)


def test_rows_of_parquet_are_documents_numbered_by_row(tmp_path):
    for options in ({}, {"compression": "zstd"}, {"use_dictionary": False}, {"version": "1.0"}):
        path = parquet(tmp_path / "a.parquet", ["", "one", "two\n", "three", "four"], rows_per_group=2, **options)
        assert texts(path) == {0: "", 1: "one", 2: "two\n", 3: "three", 4: "four"}


@pytest.mark.parametrize("kind", [pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view(),
                                  pa.dictionary(pa.int32(), pa.string())])
def test_text_is_read_from_columns_of_every_kind_that_writers_use(tmp_path, kind):
    values = pa.array(["one", "z\u00e9ro", None], pa.string())
    path = parquet(tmp_path / "a.parquet", {"text": values.cast(kind)})
    corpus = corpus_of(path)
    found = [raw for _, raw in corpus.documents(0)]
    assert found[:2] == ["one", "z\u00e9ro"] and isinstance(found[2], Malformed)


def test_row_groups_below_the_first_wanted_row_are_not_read(tmp_path):
    path = parquet(tmp_path / "a.parquet", [f"row {n}" * 50 for n in range(20)], rows_per_group=5, compression=None)
    damaged = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(1).dictionary_page_offset
    damaged[start:start + 40] = b"\xff" * 40
    path.write_bytes(damaged)
    for first in (5, 7, 9):
        assert list(texts(path, first)) == list(range(5, 20))     # group 0 is damaged, and nobody looked
    assert list(texts(path, 10)) == list(range(10, 20)) and texts(path, 20) == {}
    with pytest.raises(UserError, match="a.parquet: damaged or cut off"):
        texts(path, 4)


def test_empty_parquet_files_and_row_groups_hold_nothing(tmp_path):
    assert texts(parquet(tmp_path / "a.parquet", pa.table({"text": pa.array([], pa.string())}).to_pydict() | {
        "text": pa.array([], pa.string())})) == {}
    schema = pa.schema({"text": pa.string()})
    with pq.ParquetWriter(tmp_path / "b.parquet", schema) as writer:
        for rows in (["one"], [], ["two"]):
            writer.write_table(pa.table({"text": pa.array(rows, pa.string())}), row_group_size=10)
    assert texts(tmp_path / "b.parquet") == {0: "one", 1: "two"}


def test_null_rows_and_rows_that_are_not_utf8_are_malformed_and_the_others_are_read(tmp_path):
    for kind in (pa.binary(), pa.string()):
        bad = pa.array([b"one", b"\xff", None, b"two"], pa.binary()).view(kind) if kind != pa.binary() else \
            pa.array([b"one", b"\xff", None, b"two"], kind)
        path = parquet(tmp_path / "a.parquet", {"text": bad})
        corpus = corpus_of(path)
        found = [raw for _, raw in corpus.documents(0)]
        assert (found[0], found[3]) == ("one", "two")
        for raw, reason in ((found[1], "not UTF-8"), (found[2], "column 'text' is null")):
            with pytest.raises(Malformed, match=reason):
                corpus.text_of(raw)


def test_a_column_that_is_missing_or_holds_no_text_is_said_with_those_that_would_do(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"id": [1], "body": ["x"], "title": ["y"]})
    with pytest.raises(UserError, match=r"a.parquet: has no column 'text' \(its columns: id, body, title\); set "
                                        r"data.train.0.text_field to one with text: body, title"):
        texts(path)
    with pytest.raises(UserError, match="column 'id' holds int64, not text"):
        texts(path, text_field="id")
    assert texts(path, text_field="body") == {0: "x"}


def test_a_parquet_file_that_is_cut_off_or_none_at_all_is_named(tmp_path):
    path = parquet(tmp_path / "a.parquet", ["one " * 5000] * 9, compression=None, use_dictionary=False)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:1000], b"", b"no parquet"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="a.parquet: damaged or cut off .*; fetch or pack it again"):
            texts(path)


def test_a_row_group_is_never_held_whole(tmp_path):
    rows = [random.Random(n).randbytes(5000).hex() for n in range(4000)]
    path = parquet(tmp_path / "a.parquet", rows, rows_per_group=4000, use_dictionary=False)   # one group of 40 MB
    before, most = pa.total_allocated_bytes(), 0
    for _ in corpus_of(path).documents(0):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 16_000_000


def test_zst_and_parquet_files_tell_how_much_text_they_hold_where_they_know(tmp_path):
    data = words(30_000)
    path = tmp_path / "a.txt.zst"
    for packed, size in ((zst(data), len(data)), (zst(data) + zst(data[:100]), len(data) + 100), (b"", 0),
                         (b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc" + zst(data), len(data)),
                         (zst(data, write_checksum=True) * 2, 2 * len(data)), (b"none", None),
                         (zst(data, write_content_size=False), None), (zst(data) + b"none", None)):
        path.write_bytes(packed)
        assert text_bytes_in(path, "text") == size
    rows = [f"{n} " * 100 for n in range(1000, 2000)]
    parquet(tmp_path / "a.parquet", rows, rows_per_group=100, use_dictionary=False)
    # beside each row's 500 bytes its length stands in 4
    assert text_bytes_in(tmp_path / "a.parquet", "text") == pytest.approx(504 * 1000, rel=0.03)


def rows_of(texts, path):
    """The same rows as .jsonl and as parquet."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    else:
        parquet(path, texts, rows_per_group=3)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_rows_from_one_start_to_the_next_are_one_document_a_line_each(tmp_path, name):
    path = rows_of(["", " = A = \n", "", "one", "two\n", " = B = \n", " = = C = = \n", "three"], tmp_path / name)
    corpus = corpus_of(path, starts=r" = [^=]")
    found = dict(corpus.documents(0))
    assert {number: text.text for number, text in found.items()} == {
        1: " = A = \n\none\ntwo\n", 5: " = B = \n = = C = = \nthree\n"}
    # each row is a line, whose end is a word: also that of the blank one before the first document
    assert [text.words() for text in found.values()] == [1 + 4 + 1 + 2 + 2, 4 + 6 + 2]


def test_a_malformed_row_is_left_out_of_its_document_and_counted_under_its_own_number(tmp_path):
    path = rows_of(["= A", None, "one", "= B", "two"], tmp_path / "a.parquet")
    corpus = corpus_of(path, starts="= ")
    found = list(corpus.documents(0))
    assert [number for number, _ in found] == [0, 1, 3]
    assert [found[place][1].text for place in (0, 2)] == ["= A\none\n", "= B\ntwo\n"]
    with pytest.raises(Malformed, match="null"):
        corpus.text_of(found[1][1])


def test_a_pattern_that_no_row_matches_is_an_error_before_memory_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr("dstrain.data.reading.cutting.MOST_CHARACTERS", 1000)
    path = rows_of(["= A", *["x" * 99] * 20], tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet, row 0 \(from 0\): here begins a document of more than 1,000 "
                                        r"characters, because `starts` '= ' matches no line after it"):
        list(corpus_of(path, starts="= ").documents(0))


def test_wikitexts_own_word_count_comes_out_of_its_file_and_of_its_rows_on_the_hub(tmp_path, shared_data):
    packed = shared_data / "wikitext2" / "valid.txt.gz"
    with gzip.open(packed, "rt", encoding="utf-8") as file:
        lines = list(file)
    rows = rows_of([line if line.strip() else "" for line in lines], tmp_path / "a.parquet")   # as its table has them
    found = []
    for path in (packed, rows):
        corpus = corpus_of(path, starts=" = [^=]")
        articles = [corpus.text_of(raw) for _, raw in corpus.documents(0)]
        found.append((len(articles), sum(article.words() for article in articles)))
    assert found == [(60, 217_646)] * 2
