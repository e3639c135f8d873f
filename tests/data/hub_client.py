"""A process that reads from a hub: HF_ENDPOINT, HF_HOME and the offline switches are read once, at import.

As a program it answers one line of JSON with one line of JSON; `Client` is that program as seen from a test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class Client:
    def __init__(self, url: str, home: Path, **environment: str):
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**inherited, "HF_ENDPOINT": url, "HF_HOME": str(home), **environment})

    def __call__(self, do: str, **arguments: Any) -> Any:
        """What the function of that name below returns; a UserError's text as {'error': ...}."""
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()  # it ends by itself

    def wait(self) -> None:
        self._process.wait(20)


def documents(source: dict, first: int = 0) -> list:
    """[file, number, text or why not, where] of all."""
    from dstrain.data.reading.sources import Malformed

    corpus, found = corpus_of(source), []
    for file in range(corpus.file_count):
        for number, raw in corpus.documents(file, first):
            try:
                text = corpus.text_of(raw).text
            except Malformed as reason:
                text = f"malformed: {reason}"
            found.append([file, number, text, corpus.where(file, number)])
    return found


def pairs(source: dict, languages: list[str]) -> list:
    """[file, number, source, target], or with why not behind the number."""
    from dstrain.config.translate import PairSource
    from dstrain.data.reading.pair_sources import open_corpus
    from dstrain.data.reading.sources import Malformed

    corpus, found = open_corpus(PairSource(**source), 0, "train", tuple(languages)), []
    for file in range(corpus.file_count):
        for number, raw in corpus.documents(file):
            try:
                pair = corpus.text_of(raw)
                found.append([file, number, *([] if pair is None else [pair.source, pair.target])])
            except Malformed as reason:
                found.append([file, number, str(reason)])
    return [corpus.fingerprint["count"], found]


def pair_commits(sources: list[dict]) -> list[str | None]:
    """The revisions that sources of pairs are pinned to."""
    from dstrain.config.schema import Recipe, Run
    from dstrain.config.translate import PairData, PairSource, TokenBatch, TranslateModel
    from dstrain.data.reading.hub import pinned

    data = PairData(languages=("en", "de"), train=tuple(PairSource(**source) for source in sources))
    recipe = Recipe(family="translate", model=TranslateModel(preset="tiny"), data=data, run=Run(name="t", steps=1),
                    batch=TokenBatch(tokens=100, micro_tokens=100))
    return [source.revision for source in pinned(recipe).data.train]


def fingerprint(source: dict) -> dict:
    return corpus_of(source).fingerprint


def text_bytes(source: dict) -> int | None:
    return corpus_of(source).text_bytes()


def commits(sources: list[dict], saved: list[dict] | None = None) -> list[str | None]:
    """The revisions that the sources are pinned to, with a checkpoint's sources or without."""
    from dstrain.data.reading.hub import pinned

    recipe = pinned(recipe_of(sources), None if saved is None else recipe_of(saved))
    return [source.revision for source in recipe.data.train]


def steps(sources: list[dict], count: int, world: int = 1, place: dict | None = None) -> list[dict]:
    from data_help import global_steps

    return global_steps(recipe_of(sources), count, world, place)


def fetch(name: str, revision: str | None = None) -> str:
    """What `hf download` does."""
    import huggingface_hub

    return huggingface_hub.snapshot_download(name, repo_type="dataset", revision=revision)


def load_tables(name: str, config: str, revision: str) -> int:
    """What people do beside dstrain: `datasets` keeps tables of it, and would take them for any revision later."""
    import datasets

    return len(datasets.load_dataset(name, config, split="train", revision=revision))


def rush() -> None:
    """Retries wait for nothing."""
    import datasets
    import huggingface_hub.utils._http as http

    datasets.config.STREAMING_READ_RETRY_INTERVAL = datasets.config.STREAMING_OPEN_RETRY_INTERVAL = 0
    http.time.sleep = lambda _: None


def corpus_of(source: dict) -> Any:
    from dstrain.config.schema import Source
    from dstrain.data.reading.sources import Corpus

    return Corpus(Source(**source), 0, "train")


def recipe_of(sources: list[dict]) -> Any:
    """Without data_help, which imports torch."""
    from dstrain.config.schema import Batch, Data, LmModel, Recipe, Run, Source

    data = Data(train=tuple(Source(**source) for source in sources), lanes=6, block_tokens=100)
    return Recipe(family="lm", model=LmModel(preset="tiny"), tokenizer="bytes", data=data,
                  batch=Batch(rows=6, micro_rows=6, length=24), run=Run(name="t", steps=1))


def main() -> None:
    import datasets  # noqa: F401  all clients at the same time

    from dstrain.config.errors import UserError
    from dstrain.data.reading import hub_shards

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        request = json.loads(line)
        hub_shards._open.cache_clear()
        try:
            answer = globals()[request.pop("do")](**request)
        except UserError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
