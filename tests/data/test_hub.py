"""Hub datasets: pinned to a commit, streamed shard by shard, read offline from the cache, resumed twice.

Against a stub of the hub on this machine, by processes that were started with its address.
"""

import gzip
import io
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_client import Client
from hub_stub import Hub

CARD = b"""---
configs:
- config_name: big
  data_files:
  - {split: train, path: big/train-*}
  - {split: test, path: big/test-*}
- config_name: small
  data_files: small.parquet
dataset_info:
- config_name: big
- config_name: small
  features: [{name: text, dtype: string}]
  splits: [{name: train, num_bytes: 4321, num_examples: 2}]
---
"""
BIG = {"hub": "some/data", "config": "big"}
SMALL = {"hub": "some/data", "config": "small"}


def parquet(*texts, rows_per_group=4):
    data = io.BytesIO()
    table = pa.table({"id": list(range(len(texts))), "text": pa.array(texts, pa.string()), "long": ["z"] * len(texts)})
    pq.write_table(table, data, row_group_size=rows_per_group, compression="gzip", use_dictionary=False)
    return data.getvalue()


def tree(word):
    return {"README.md": CARD, "big/test-00000-of-00001.parquet": parquet("t"),
            "big/train-00000-of-00002.parquet": parquet(*(f"{word} a{n}" * (n % 5 + 1) for n in range(30))),
            "big/train-00001-of-00002.parquet": parquet(*(f"{word} b{n}" for n in range(20))),
            "small.parquet": parquet(*"abcdefghijklmno", None)}


DAMAGED = b"PAR1" + b"\xff" * 200 + parquet(*"abcdefghijklm" * 9)[204:]


@pytest.fixture(scope="module")
def hub():
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def clients(hub, tmp_path_factory):
    """By name: with the hub, without it, and without it but with nothing in the cache."""
    home = tmp_path_factory.mktemp("home")
    found = {"online": Client(hub.url, home), "offline": Client(hub.url, home, HF_DATASETS_OFFLINE="1"),
             "bare": Client(hub.url, home / "bare", HF_HUB_OFFLINE="1")}
    found["online"]("rush")
    yield found
    for client in found.values():
        client.close()
    for client in found.values():
        client.wait()


@pytest.fixture(scope="module")
def online(clients):
    return clients["online"]


@pytest.fixture(scope="module")
def offline(clients):
    return clients["offline"]


@pytest.fixture
def old(hub):
    """The first commit of a fresh some/data."""
    hub.repos.pop("some/data", None)
    return hub.repo("some/data").commit(tree("old"))


def texts(answer):
    return [text for _, _, text, _ in answer]


def test_a_shard_is_a_file_and_a_row_its_document(online, old):
    found = online("documents", source=BIG)
    assert [(file, number) for file, number, _, _ in found] == [(0, n) for n in range(30)] + [(1, n) for n in range(20)]
    assert texts(found)[30:] == [f"old b{n}" for n in range(20)]
    assert found[30][3] == f"some/data@{old}/big/train-00001-of-00002.parquet, row 0 (from 0)"


def test_rows_below_the_first_wanted_one_are_left_out_and_the_others_keep_their_numbers(online, old):
    found = online("documents", source=BIG, first=17)
    numbers = [(file, number) for file, number, _, _ in found]
    assert numbers == [(0, n) for n in range(17, 30)] + [(1, n) for n in range(17, 20)]
    assert texts(found)[0] == "old a17" * 3


def test_a_pinned_commit_is_read_though_the_branch_has_moved_on(online, hub, old):
    assert online("commits", sources=[BIG, {**BIG, "revision": "main"}, {**BIG, "revision": old}]) == [old] * 3
    new = hub.repo("some/data").commit(tree("new"))
    assert online("commits", sources=[BIG]) == [new]
    assert all(text.startswith("old") for text in texts(online("documents", source={**BIG, "revision": old})))
    assert all(text.startswith("new") for text in texts(online("documents", source=BIG)))


def test_a_run_that_goes_on_keeps_its_commit_and_asks_no_network(clients, hub, old):
    hub.repo("some/data").commit(tree("new"))
    saved = [{**BIG, "revision": old}, {"path": "a.txt"}]
    hub.requests.clear()
    for client in clients.values():
        for revision in (None, "main", "v1"):
            sources = [{**BIG, "revision": revision}, {"path": "a.txt"}]
            assert client("commits", sources=sources, saved=saved) == [old, None]
        assert client("commits", sources=[{**BIG, "revision": "f" * 40}], saved=saved) == ["f" * 40]
    assert hub.requests == []
    assert clients["online"]("commits", sources=[SMALL], saved=saved) != [old]      # that is another source


def test_the_fingerprint_is_of_commit_configuration_split_and_shards(online, hub, old):
    prints = [online("fingerprint", source=source) for source in (
        BIG, {**BIG, "revision": old}, {**BIG, "split": "test"}, SMALL)]
    assert prints[0] == prints[1] and len({answer["digest"] for answer in prints}) == 3
    assert [answer["count"] for answer in prints] == [2, 2, 1, 1]
    hub.repo("some/data").commit(tree("old") | {"LICENSE": b""})
    assert online("fingerprint", source=BIG) not in prints


def test_rows_without_text_are_malformed_and_the_card_says_how_much_there_is(online, old):
    assert texts(online("documents", source=SMALL))[-2:] == ["o", "malformed: column 'text' is null, not text"]
    assert online("text_bytes", source=SMALL) == 4321 and online("text_bytes", source=BIG) is None


def test_only_the_column_with_the_text_travels(online, hub, old):
    wide = io.BytesIO()
    noise = [bytes([n % 256]) * 4_000 + str(n).encode() * 1000 for n in range(2000)]
    pq.write_table(pa.table({"noise": noise, "text": ["x"] * 2000}), wide, compression=None, use_dictionary=False)
    hub.repo("some/wide").commit({"train.parquet": wide.getvalue()})
    hub.sent_bytes = 0
    assert len(online("documents", source={"hub": "some/wide"})) == 2000
    assert hub.sent_bytes < 0.7 * len(wide.getvalue())


def test_offline_the_cache_gives_the_same_rows_and_fingerprint(online, offline, hub, old):
    online("fetch", name="some/data")
    hub.repo("some/data").commit(tree("new"))
    pinned = {**BIG, "revision": old}
    expected, print_of = online("documents", source=pinned), online("fingerprint", source=pinned)
    hub.requests.clear()
    found = offline("documents", source=BIG)                       # `main`, as it was when it was fetched
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    assert offline("fingerprint", source=pinned) == offline("fingerprint", source=BIG) == print_of
    assert offline("commits", sources=[BIG]) == [old]
    assert hub.requests == []


def test_offline_a_commit_that_is_not_whole_in_the_cache_is_refused_with_the_command_that_fetches_it(
        clients, online, offline, hub, old):
    online("fetch", name="some/data")
    new = hub.repo("some/data").commit(tree("new"))
    online("documents", source={**BIG, "revision": new})           # streamed: the cache has its card alone
    for client, revision in ((offline, new), (clients["bare"], old), (clients["bare"], None)):
        said = client("documents", source={**BIG, "revision": revision})["error"]
        assert said.startswith("data.train.0.hub: some/data") and "is not whole in the cache" in said
        assert "`hf download some/data --repo-type dataset" + (f" --revision {revision}`" if revision else "`") in said


def test_a_folder_that_datasets_can_load_is_read_like_the_hub(online, hub, old, tmp_path):
    for name, data in tree("old").items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    here = {**BIG, "hub": str(tmp_path)}
    assert texts(online("documents", source=here)) == texts(online("documents", source=BIG))
    assert online("commits", sources=[here]) == [None]
    assert "is a folder on this machine" in online("commits", sources=[{**here, "revision": "main"}])["error"]
    before = online("fingerprint", source=here)
    assert online("text_bytes", source=here) > 400
    (tmp_path / "big/train-00001-of-00002.parquet").write_bytes(parquet("other"))
    assert online("fingerprint", source=here) != before


@pytest.mark.parametrize("source, said", [
    ({"hub": "some/none"}, "data.train.0.hub: some/none: the hub has no such dataset, or it is private; correct"),
    ({"hub": "../some/none"}, "data.train.0.hub: '../some/none' is neither a folder"),
    ({"hub": "nothing"}, "data.train.0.hub: 'nothing' is neither a folder .* nor the name of a dataset"),
    ({**BIG, "revision": "v9"}, "data.train.0.revision: some/data has no revision 'v9'; it has main, and its commits"),
    ({"hub": "some/data"}, r"data.train.0.config: None of some/data: .*pick one .*\['big', 'small'\]"),
    ({**BIG, "config": "huge"}, r"data.train.0.config: 'huge' of some/data: .*Available: \['big', 'small'\]"),
    ({**BIG, "split": "valid"}, "data.train.0.split: some/data has no split 'valid'; it has train, test"),
    ({**BIG, "text_field": "body"}, "has no column 'body' .its columns: id, text, long.; set data.train.0.text_field "
                                    "to one with text: text, long"),
    ({**BIG, "text_field": "id"}, "column 'id' holds int64, not text"),
])
def test_what_the_hub_does_not_have_is_said_with_what_it_has(online, old, source, said):
    answer = online("documents", source=source)
    assert re.search(said, answer["error"]), answer["error"]


def test_gated_datasets_and_those_made_by_programs_are_said(online, hub, old):
    hub.repo("some/gated").commit(tree("old"))
    hub.repo("some/gated").gated = True
    assert "some/gated is a gated dataset; ask for access" in online(
        "documents", source={**BIG, "hub": "some/gated"})["error"]
    hub.repo("some/script").commit({"README.md": b"", "script.py": b"", "a.txt": b"x"})
    assert "set data.train.0.revision to refs/convert/parquet" in online(
        "documents", source={"hub": "some/script"})["error"]


@pytest.mark.parametrize("name, data, said", [
    ("train.jsonl", b'{"text": "one"}\n{"text": \n', "some/odd cannot be loaded by `datasets` .ArrowInvalid"),
    ("train.jsonl", b"", "some/odd cannot be loaded"),
    ("train.jsonl.gz", gzip.compress(b'{"text": "one"}\n' * 999)[:-9], "some/odd cannot be loaded .* .EOFError"),
    ("train.parquet", parquet("one")[:-9], "some/odd cannot be loaded .* .ArrowInvalid"),
    ("train.parquet", DAMAGED, "train.parquet: cannot be read as rows"),
    ("train.parquet", parquet(), None),
    ("train.csv", b"text,x\n" + b"one,1\n" * 600, None),
    ("train.txt.gz", gzip.compress(b"one\n\ntwo\n"), None),
])
def test_what_datasets_reads_is_read_and_what_it_does_not_is_one_clear_error(online, hub, name, data, said):
    hub.repo("some/odd").commit({name: data})
    answer = online("documents", source={"hub": "some/odd"})
    if said is None:
        assert [row[:2] for row in answer] == [[0, n] for n in range(len(answer))]
        assert texts(answer) in ([], ["one"] * 600, ["one", "", "two"])
    else:
        assert re.search(said, answer["error"]) and "name " in answer["error"], answer["error"]


def test_a_broken_connection_is_tried_again_and_nothing_is_lost_or_doubled(online, hub, old):
    expected = online("documents", source=BIG)
    hub.repo("some/data").commit(tree("old"))
    hub.broken_reads = 3
    assert [row[:3] for row in online("documents", source=BIG)] == [row[:3] for row in expected]
    assert hub.broken_reads == 0


def test_a_hub_that_stays_away_is_one_clear_error(online, hub, old):
    hub.broken_reads = -1
    try:
        said = online("documents", source=BIG)["error"]
    finally:
        hub.broken_reads = 0
    assert said.startswith("data.train.0.hub: some/data: the hub cannot be reached") and "HF_HUB_OFFLINE=1" in said


def test_when_the_hub_is_down_no_other_revision_is_read_in_its_place(online, offline, hub, old):
    new = hub.repo("some/data").commit(tree("new"))
    assert online("load_tables", name="some/data", config="big", revision=old) == 50
    hub.down = True
    try:
        said = [online("documents", source={**BIG, "revision": revision}) for revision in (new, old, None)]
    finally:
        hub.down = False
    assert all(answer["error"].startswith("data.train.0.hub: some/data: the hub cannot be reached") for answer in said)
    assert "is not whole in the cache" in offline("documents", source={**BIG, "revision": new})["error"]


@pytest.fixture(scope="module")
def whole(hub, online):
    """Steps that nobody interrupted, over two sources, of which one comes to its second epoch."""
    hub.repo("some/kept").commit(tree("kept"))
    hub.repo("some/lines").commit({"train.jsonl": b"".join(b'{"text": "line %d"}\n' % n for n in range(40))})
    sources = [{**BIG, "hub": "some/kept"}, {"hub": "some/lines", "weight": 0.3}]
    steps = online("steps", sources=sources, count=14)
    assert max(lane[0]["epoch"] for lane in steps[-1]["place"]["lanes"].values()) >= 1
    return sources, steps


@pytest.mark.parametrize("world, first_stop, second_stop", [(1, 5, 12), (2, 1, 2), (2, 4, 11)])
def test_a_feed_over_hub_sources_stopped_and_resumed_twice_gives_the_rows_of_one_that_never_stopped(
        online, whole, world, first_stop, second_stop):
    sources, expected = whole
    parts, place = [], None
    for begin, end in ((0, first_stop), (first_stop, second_stop), (second_stop, 14)):
        parts += online("steps", sources=sources, count=end - begin, world=world, place=place)
        place = json.loads(json.dumps(parts[-1]["place"]))
    assert parts == expected
