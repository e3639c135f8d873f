"""The embedded source of puzzles: its parts, and that none of them holds a puzzle of the other in another view."""

from collections import Counter

from dstrain.data.grids.audit import shared_with_training
from dstrain.data.grids.canonical import canonical_hash
from dstrain.data.grids.made.parts import is_to_validate
from dstrain.data.grids.made.tasks import TO_TRAIN, made_task
from dstrain.data.grids.made_corpus import TO_VALIDATE, MadePuzzles
from dstrain.data.grids.views import view_of


def test_no_pair_that_validation_shows_is_trained_on_in_any_view():
    """Turned, mirrored, or with other colours: a view of an input is of the same part as the input, pair by pair."""
    for number in [*range(300), *range(TO_TRAIN, TO_TRAIN + 700)]:
        for example in view_of(True, "all", number).of_task(made_task(number)).examples:
            assert is_to_validate(example.input) == (number >= TO_TRAIN), number


def test_the_audit_finds_no_puzzle_to_validate_on_in_the_training_part():
    """Of 20,000, by the forms that it compares for puzzles out of files: none shares two pairs, or all."""
    train = MadePuzzles(0, "data.train.0", "train")
    some = (train.question(number).task for number in range(0, len(train), len(train) // 20_000))
    assert shared_with_training(list(MadePuzzles(0, "data.valid.0", "valid").tasks()), some) == []


def test_the_puzzles_to_validate_on_are_fifty_of_each_kind_and_all_different():
    questions = list(MadePuzzles(0, "data.valid.0", "valid").to_validate())
    assert set(Counter(question.task.category for question in questions).values()) == {50}
    assert len({canonical_hash(question.task) for question in questions}) == len(questions) == TO_VALIDATE == 350
    assert all(question.query is question.task.queries[0] for question in questions)


def test_a_part_has_its_own_numbers():
    train, valid = (MadePuzzles(0, "here", part) for part in ("train", "valid"))
    assert (len(train), len(valid)) == (2**20, 350)
    assert train.question(2**20 - 1).task.name == "embedded/gravity/1048575"
    assert valid.question(0).task.name == "embedded/fill/1048576"
    assert [task.name for task in valid.tasks()] == [question.task.name for question in valid.to_validate()]
    assert [question.task.name for question in train.to_validate()] == [task.name for task in valid.tasks()]


def test_the_fingerprint_names_the_rules_and_the_part():
    """Where it changes, a run that is continued is told that its data are others."""
    train, all_of_it, valid = (MadePuzzles(0, "here", part) for part in ("train", "all", "valid"))
    assert train.fingerprint == all_of_it.fingerprint == {"count": 0, "digest": "45d576f3025a888c"}
    assert valid.fingerprint["digest"] != train.fingerprint["digest"] and train.file_count == 0
    assert (train.name, valid.name) == ("here: made puzzles, part train", "here: made puzzles, part valid")
