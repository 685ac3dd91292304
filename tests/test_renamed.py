"""Modules of diito 0.1.0 go on working under their old names."""

import importlib

import pytest

from diito.renamed import RENAMED


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_gives_the_module_of_the_present_name(old, new):
    module = importlib.import_module(f"diito.{new}")
    assert importlib.import_module(f"diito.{old}") is module
    assert module.__name__ == module.__spec__.name == f"diito.{new}"


def test_what_the_documents_of_0_1_0_import_is_there():
    from diito.evaluation.task import Scores, Task
    from diito.losses import Loss, by_chunks
    from diito.positions import swap_counts

    from diito.evaluation.fine_tuning import FineTuning, fine_tune
    from diito.evaluation.held_out import HeldOut, at_slots
    from diito.models import ModelSource, digest, load_masked_language_model
    from diito.speed import choose_precision, prepare_models

    assert all(map(callable, (HeldOut, at_slots, digest, load_masked_language_model, choose_precision, prepare_models)))
    assert all(map(callable, (FineTuning, fine_tune, Scores, Task, Loss, by_chunks, ModelSource, swap_counts)))
