"""Tokenizers: ids, bytes, saved folders, and what is said when there is no network."""

import base64
import json
import time

import numpy as np
import pytest
import requests
from data_help import SHARED_DATA

from dstrain.config.errors import UserError
from dstrain.data.tokenizers.tokenizer import load_tokenizer

TEXT = "Ends <|endoftext|> and äöü, 東京 \U0001F600\r\n\tx = 3.14  \n"


@pytest.fixture(params=["bytes", "gpt2", "cl100k_base"])
def tokenizer(request, monkeypatch):
    return named(request.param, monkeypatch)


def named(name, monkeypatch):
    if name != "bytes":
        if not (SHARED_DATA / "tiktoken").is_dir():
            pytest.skip(f"needs tiktoken's files for {name}")
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHARED_DATA / "tiktoken"))
    return load_tokenizer(name)


def test_text_comes_back_and_a_spelt_special_token_is_ordinary_text(tokenizer):
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.int32 and tokenizer.eot not in ids and ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids) == TEXT
    assert len(tokenizer.encode("")) == 0 and tokenizer.decode([]) == ""


def test_token_bytes_add_up_to_the_length_of_the_text_and_specials_stand_for_none(tokenizer):
    ids = tokenizer.encode(TEXT)
    lengths = tokenizer.token_bytes()
    assert lengths.shape == (tokenizer.vocab_size,) and lengths[ids].sum() == len(TEXT.encode("utf-8"))
    assert lengths[tokenizer.eot] == 0


def test_a_saved_folder_alone_gives_the_same_tokenizer(tokenizer, tmp_path, monkeypatch):
    files = tokenizer.save(tmp_path / "tokenizer")
    assert {path.name for path in files} == {path.name for path in (tmp_path / "tokenizer").iterdir()}
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setattr("tiktoken.get_encoding", None)
    again = load_tokenizer(tokenizer.name, tmp_path / "tokenizer")
    assert (again.name, again.vocab_size, again.eot) == (tokenizer.name, tokenizer.vocab_size, tokenizer.eot)
    assert again.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert again.decode(range(again.vocab_size)) == tokenizer.decode(range(again.vocab_size))
    assert (again.token_bytes() == tokenizer.token_bytes()).all()
    again.save(tmp_path / "second")
    for path in files:
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_sizes_and_ids_are_the_known_ones(monkeypatch):
    assert [named("gpt2", monkeypatch).vocab_size, named("gpt2", monkeypatch).eot] == [50257, 50256]
    assert named("gpt2", monkeypatch).encode("hello world").tolist() == [31373, 995]
    assert [named("cl100k_base", monkeypatch).vocab_size, named("cl100k_base", monkeypatch).eot] == [100277, 100257]


def test_bytes_are_their_own_ids_and_end_of_text_is_256():
    tokenizer = load_tokenizer("bytes")
    assert tokenizer.encode("aé").tolist() == [97, 195, 169]
    assert (tokenizer.vocab_size, tokenizer.eot) == (257, 256)
    assert tokenizer.decode([195]) == "\N{REPLACEMENT CHARACTER}"


def test_half_a_surrogate_pair_is_replaced_and_no_crash(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\N{REPLACEMENT CHARACTER}b"


def test_ids_outside_the_vocabulary_are_an_error_and_ids_that_stand_for_nothing_are_shown(monkeypatch):
    for ids in ([-1], [257]):
        with pytest.raises(ValueError, match="the vocabulary has 257"):
            load_tokenizer("bytes").decode(ids)
    assert named("cl100k_base", monkeypatch).decode([100256]) == "\N{REPLACEMENT CHARACTER}"  # a hole in the vocabulary


def test_endless_white_space_comes_back(tokenizer):
    """tiktoken alone ends in an error there: `Max stack size exceeded for backtracking`."""
    text = "x" + " " * 1_000_000 + "y" + "\t" * 400_000 + "\n\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("wrong, near", [("gtp2", "gpt2"), ("byte", "bytes"), ("cl100k", "cl100k_base"),
                                         ("bpe", "bpe:8192"), ("BPE:512", "bpe:8192"), ("saved", "./saved")])
def test_an_unknown_name_is_told_the_nearest_known_one(wrong, near, tmp_path, monkeypatch):
    (tmp_path / "saved").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{wrong!r} is unknown; did you mean {near!r}"):
        load_tokenizer(wrong)


def test_a_folder_is_a_name_and_what_is_saved_from_it_stands_on_its_own(tmp_path, monkeypatch):
    load_tokenizer("bytes").save(tmp_path / "runs/a/tokenizer")
    name = f"{tmp_path}/runs/a/tokenizer"
    assert load_tokenizer(name).name == "bytes"
    monkeypatch.chdir(tmp_path)
    load_tokenizer("runs/a/tokenizer").save(tmp_path / "kept")
    (tmp_path / "runs/a").rename(tmp_path / "runs/b")
    assert load_tokenizer("runs/a/tokenizer", tmp_path / "kept").name == "bytes"   # of a checkpoint, its source gone
    with pytest.raises(UserError, match="there is no folder runs/a/tokenizer; correct the path"):
        load_tokenizer("runs/a/tokenizer")
    with pytest.raises(UserError, match=r"did you mean runs/b/tokenizer\?"):
        load_tokenizer("runs/b")


def test_a_learned_one_without_its_folder_says_where_it_comes_from():
    with pytest.raises(UserError, match=r"bpe:512 is learned from data.train by `dstrain train` or `dstrain prepare`"):
        load_tokenizer("bpe:512")


def whole_description() -> tuple[dict, list[bytes]]:
    """A vocabulary of the 256 bytes, one merge and end-of-text."""
    lines = [base64.b64encode(token) + b" %d" % rank
             for rank, token in enumerate([*(bytes([value]) for value in range(256)), b"ab"])]
    return {"name": "bpe:258", "kind": "tiktoken", "vocab_size": 258, "pattern": r"\S+|\s+",
            "specials": {"<|endoftext|>": 257}}, lines


@pytest.mark.parametrize("spoil, message", [
    (lambda description, lines: None, None),
    (lambda description, lines: lines.pop(65), "1 of the 256 bytes are no token, such as 65"),
    (lambda description, lines: lines.append(base64.b64encode(b"abc") + b" 256"), "two tokens have the same id"),
    (lambda description, lines: lines.append(base64.b64encode(b"abc") + b" 257"), "two tokens have the same id"),
    (lambda description, lines: lines.append(b"YQ"), "ValueError"),
    (lambda description, lines: description.update(vocab_size=300), "258 ids, not 300"),
    (lambda description, lines: description.update(kind="words"), "of the kind 'words'"),
    (lambda description, lines: description.pop("pattern"), "KeyError: 'pattern'"),
])
def test_a_saved_vocabulary_is_checked(spoil, message, tmp_path):
    description, lines = whole_description()
    spoil(description, lines)
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    (tmp_path / "tokenizer.tiktoken").write_bytes(b"\n".join(lines) + b"\n")
    if message is None:
        assert load_tokenizer("bpe:258", tmp_path).encode("abba").tolist() == [256, 98, 97]
        return
    with pytest.raises(UserError, match=message):
        load_tokenizer("bpe:258", tmp_path)


def test_without_network_and_files_it_says_which_file_goes_where(monkeypatch, tmp_path):
    asked = []

    def no_network(address, timeout):
        asked.append((address, timeout))
        raise requests.ConnectionError("no route to host")

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(requests, "get", no_network)
    # p50k_base: one file; its name in the cache is the SHA-1 of its address
    with pytest.raises(UserError) as error:
        load_tokenizer("p50k_base")
    message = str(error.value)
    assert "encodings/p50k_base.tiktoken saved as ec7223a39ce59f226a68acc30dc1af2788490e15" in message
    assert "TIKTOKEN_CACHE_DIR" in message and str(tmp_path) in message
    assert [max(timeout) <= 60 for _, timeout in asked] == [True]


def test_both_of_gpt2s_files_are_named(monkeypatch, tmp_path):
    import tiktoken.registry

    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(requests, "get", lambda address, timeout: (_ for _ in ()).throw(requests.Timeout("silence")))
    with pytest.raises(UserError) as error:
        load_tokenizer("gpt2")
    # the names are the ones under which shared caches of gpt2 hold the two files
    assert "vocab.bpe saved as 6d1cbeee0f20b3d9449abfede4726ed8212e3aee" in str(error.value)
    assert "encoder.json saved as 6c7ea1a7e38e3a7f062df639a5b80947f075ffe6" in str(error.value)


def test_a_network_that_swallows_packets_is_waited_for_a_limited_time(monkeypatch, tmp_path):
    import socket
    import threading

    silent = socket.create_server(("127.0.0.1", 0))  # accepts and never answers
    monkeypatch.setattr("dstrain.data.tokenizers.tiktoken_files._READ_TIMEOUT_S", 0.3)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    get, address = requests.get, f"http://127.0.0.1:{silent.getsockname()[1]}/"
    monkeypatch.setattr(requests, "get", lambda _, timeout: get(address, timeout=timeout))
    failed = []

    def load():
        with pytest.raises(UserError, match="ReadTimeout"):
            load_tokenizer("p50k_base")
        failed.append(time.monotonic())

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(10)
    silent.close()
    assert failed


def test_a_damaged_folder_says_so(tmp_path):
    with pytest.raises(UserError, match="holds no complete tokenizer"):
        load_tokenizer("gpt2", tmp_path)
    load_tokenizer("bytes").save(tmp_path)
    with pytest.raises(UserError, match="holds the tokenizer 'bytes', but 'gpt2' is asked for"):
        load_tokenizer("gpt2", tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"name": "gpt2", "kind": "tiktoken"}))
    with pytest.raises(UserError, match="tokenizer.tiktoken"):
        load_tokenizer("gpt2", tmp_path)
