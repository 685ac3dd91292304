"""What an error of a library becomes: one sentence about what the user named, with the part of the message that helps."""

import errno
import logging

import datasets
import pytest
from datasets.exceptions import DatasetGenerationCastError, DatasetGenerationError, NonMatchingSplitsSizesError

from diito.corpus.sources import find_sources
from diito.faults import is_full, loading, reason
from diito.recipe import SourceSection
from diito.refusal import Refusal


class ConnectError(Exception):
    """As httpx calls it; it is no OSError."""


ERRORS = [
    (RuntimeError("Dataset scripts are no longer supported, but found books.py"), "found books.py"),
    (ValueError("Config name is missing.\nPlease pick one among: ['a', 'b']\nExample of usage:\n\t`load`"), "['a', 'b']"),
    (NonMatchingSplitsSizesError([{"expected": 10, "recorded": 9}]), "'recorded': 9"),
    (
        DatasetGenerationCastError("An error occurred while generating the dataset\n\nAll files must have the same columns"),
        "(All files must have the same columns)",
    ),
    (KeyError("train"), "KeyError: 'train'"),
    (TypeError("unexpected"), "(unexpected)"),
    (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    (PermissionError(errno.EACCES, "Permission denied", "/cache"), "its cache is not accessible"),
    (RuntimeError("Dataset 'some/text' is a gated dataset on the Hub."), "log in with: hf auth login"),
    (ConnectError("[Errno -2] Name or service not known"), "the hub cannot be reached"),
]


@pytest.mark.parametrize(("error", "told"), ERRORS, ids=[told for _, told in ERRORS])
def test_any_error_while_loading_is_one_sentence(monkeypatch, error, told):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    (source,) = find_sources([SourceSection(dataset="some/text")], field="corpus.sources")
    with pytest.raises(Refusal) as caught:
        list(source.documents())
    assert caught.value.field == "corpus.sources"
    assert told in caught.value.sentence and "\n" not in caught.value.sentence
    assert "Example of usage" not in caught.value.sentence


def test_a_cause_is_told_where_the_error_says_nothing():
    error = DatasetGenerationError("An error occurred while generating the dataset")
    error.__cause__ = UnicodeDecodeError("utf-8", b"a\xe9", 1, 2, "unexpected end of data")
    assert "unexpected end of data" in reason(error)


def test_a_full_disk_is_told_by_its_number_alone():
    assert not is_full(OSError("No space for this"))
    outer = RuntimeError("could not be written")
    outer.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert is_full(outer)


def test_a_refusal_inside_stays_as_it_is():
    with pytest.raises(Refusal, match=r"^field: sentence$"), loading("it", "other", advice="do"):
        raise Refusal("field", "sentence")


def test_the_hubs_client_says_nothing_of_its_tries_while_something_is_loaded(caplog):
    logger = logging.getLogger("huggingface_hub.utils._http")
    with loading("it", "field", advice="do"):
        logger.warning("Retrying in 1s [Retry 1/5].")
    assert not caplog.records
    logger.warning("said")
    assert [record.message for record in caplog.records] == ["said"]
