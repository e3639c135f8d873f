"""What the doctor takes of a source has the source's own documents, whatever form they stand in."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dstrain.config.rules import check
from dstrain.config.schema import Batch, Data, LmModel, Recipe, Run, Source
from dstrain.data.reading.sources import Corpus
from dstrain.families.anatomy.text_excerpt import excerpt

ROWS = ["= A", "one", "= B", "two", "three"]


def texts(source):
    corpus = Corpus(source, 0, "train")
    return [corpus.text_of(raw).text for file in range(corpus.file_count) for _, raw in corpus.documents(file)]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "hub"])
@pytest.mark.parametrize("starts", [None, "= "])
def test_an_excerpt_of_rows_holds_their_documents_and_is_a_source_that_the_rules_take(tmp_path, form, starts):
    folder = tmp_path / "dataset"
    folder.mkdir()
    if form == "jsonl":
        (folder / "train.jsonl").write_text("".join(json.dumps({"body": row}) + "\n" for row in ROWS))
    else:
        pq.write_table(pa.table({"body": ROWS}), folder / "train.parquet")
    source = Source(hub=str(folder), text_field="body", starts=starts) if form == "hub" else Source(
        path=str(folder / f"train.{form}"), text_field="body", starts=starts)
    small = excerpt(source, tmp_path)
    assert texts(small) == texts(source) == (ROWS if starts is None else ["= A\none\n", "= B\ntwo\nthree\n"])
    check(Recipe(family="lm", model=LmModel(preset="tiny"), data=Data(train=(small,)), run=Run(name="t", steps=1),
                 batch=Batch(rows=1, micro_rows=1, length=8)))
