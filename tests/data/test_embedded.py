"""The corpus that every machine has."""

from dstrain.config.schema import Source
from dstrain.data.reading.embedded import embedded_files
from dstrain.data.reading.sources import Corpus


def files(part):
    return embedded_files("python-stdlib", part)


def test_valid_is_every_50th_file_and_train_the_others():
    everything, train, valid = files("all"), files("train"), files("valid")
    assert valid == everything[49::50]
    assert sorted(train + valid) == sorted(everything) and not set(train) & set(valid)
    assert len(everything) > 200


def test_it_is_the_library_and_not_what_was_installed_beside_it():
    names = [path.as_posix() for path in files("all")]
    assert any(name.endswith("/asyncio/base_events.py") for name in names)
    for folder in ("site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"):
        assert not any(f"/{folder}/" in name.split("/python3", 1)[-1] for name in names)


def test_every_file_can_be_read_and_is_one_document():
    corpus = Corpus(Source(embedded="python-stdlib", part="valid"), 0, "valid")
    for file in range(corpus.file_count):
        pieces = [raw for _, raw in corpus.documents(file)]
        assert [piece.ends for piece in pieces[-1:]] in ([], [True]) and not any(piece.ends for piece in pieces[:-1])
