"""Pairs from a hub dataset: a column with both languages or one for each, pinned and streamed like documents.

Against a stub of the hub on this machine, by a process that was started with its address.
"""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_client import Client
from hub_stub import Hub

EN, DE = ["one", "two", "three"], ["eins", "zwei", "drei"]
PAIRS = [[0, number, *pair] for number, pair in enumerate(zip(EN, DE))]


def parquet(**columns):
    data = io.BytesIO()
    pq.write_table(pa.table(columns), data, use_dictionary=False)
    return data.getvalue()


def struct(rows):
    return pa.array(rows, pa.struct([("de", pa.string()), ("en", pa.string()), ("id", pa.int64())]))


@pytest.fixture(scope="module")
def hub():
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def online(hub, tmp_path_factory):
    client = Client(hub.url, tmp_path_factory.mktemp("home"))
    client("rush")
    yield client
    client.close()
    client.wait()


def read(online, hub, languages=("en", "de"), source=None, **files):
    hub.repos.pop("some/pairs", None)
    hub.repo("some/pairs").commit({name.replace("_", "."): data for name, data in files.items()})
    answer = online("pairs", source={"hub": "some/pairs", **(source or {})}, languages=list(languages))
    return answer if isinstance(answer, dict) else answer[1]


def test_a_column_for_each_language_is_read(online, hub):
    table = parquet(en=EN, id=[1, 2, 3], de=DE)
    assert read(online, hub, train_parquet=table) == PAIRS
    assert read(online, hub, ("de", "en"), train_parquet=table)[0] == [0, 0, "eins", "one"]


def test_a_column_with_both_languages_is_read(online, hub):
    rows = [{"en": en, "de": de, "id": 1} for en, de in zip(EN, DE)]
    assert read(online, hub, train_parquet=parquet(number=[1, 2, 3], translation=struct(rows))) == PAIRS
    lines = "".join(json.dumps({"translation": {"en": en, "de": de}}) + "\n" for en, de in zip(EN, DE)).encode()
    assert read(online, hub, train_jsonl=lines) == PAIRS


def test_csv_and_jsonl_with_a_column_for_each_are_read(online, hub):
    assert read(online, hub, train_csv=b"id,de,en\n1,eins,one\n2,zwei,two\n3,drei,three\n") == PAIRS
    lines = "".join(json.dumps({"en": en, "de": de, "x": 1}) + "\n" for en, de in zip(EN, DE)).encode()
    assert read(online, hub, train_jsonl=lines) == PAIRS


def test_rows_that_are_no_pairs_say_why(online, hub):
    expected = [[0, 0, "column 'de' is null, not text"], [0, 1, "the side 'en' is empty, and the other one is not"],
                [0, 2]]
    assert read(online, hub, train_parquet=parquet(en=["one", " ", ""], de=[None, "zwei", ""])) == expected
    rows = [{"en": "one", "de": None}, {"en": " ", "de": "zwei"}, {"en": "", "de": ""}, None,
            {"en": "five", "de": "fünf"}]
    assert read(online, hub, train_parquet=parquet(translation=struct(rows))) == [
        *expected, [0, 3, "column 'translation' is null, not a pair"], [0, 4, "five", "fünf"]]


@pytest.mark.parametrize("table, languages, said", [
    (parquet(en=EN, de=DE), ("en", "fr"), "the dataset has no 'fr' (it has en, de); set data.languages to two of en, "),
    (parquet(en=EN, de=[1, 2, 3]), ("en", "de"), "'de' in the dataset holds int64, not text; it holds no pairs; name"),
    (parquet(translation=struct([{"en": "a", "de": "b"}])), ("en", "fr"),
     "column 'translation' has no 'fr' (it has de, en, id); set data.languages to two of de, en"),
])
def test_what_the_dataset_does_not_have_is_said_with_what_it_has(online, hub, table, languages, said):
    answer = read(online, hub, languages, train_parquet=table)
    assert answer["error"].startswith("data.train.0.hub: some/pairs: ") and said in answer["error"], answer


def test_splits_are_named_and_a_missing_one_is_said(online, hub):
    table = {"train_parquet": parquet(en=EN, de=DE), "validation_parquet": parquet(en=["v"], de=["w"])}
    assert read(online, hub, source={"split": "validation"}, **table) == [[0, 0, "v", "w"]]
    answer = read(online, hub, source={"split": "valid"}, **table)
    assert answer["error"].startswith("data.train.0.split: some/pairs has no split 'valid'; it has train, validation")


def test_a_source_of_pairs_is_pinned_to_its_commit(online, hub):
    first = hub.repo("some/kept").commit({"train.parquet": parquet(en=EN, de=DE)})
    assert online("pair_commits", sources=[{"hub": "some/kept"}, {"embedded": "numbers-en-de"}]) == [first, None]
    second = hub.repo("some/kept").commit({"train.parquet": parquet(en=["x"], de=["y"])})
    assert online("pair_commits", sources=[{"hub": "some/kept"}]) == [second]
    assert online("pairs", source={"hub": "some/kept", "revision": first}, languages=["en", "de"])[1] == PAIRS
