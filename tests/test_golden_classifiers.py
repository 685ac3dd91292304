"""Law 14 for classifiers and taggers."""

import golden
import golden_classifiers
import pytest
import torch

from diito.experiments.jobs import VERSIONS


@pytest.mark.parametrize("case", golden_classifiers.CASES)
def test_a_run_follows_its_golden_trajectory(case, tmp_path):
    expected = golden_classifiers.read()[case]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        followed = golden_classifiers.trajectory(case, tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert followed.keys() == expected.keys() == {*golden_classifiers.WEIGHTS, "loss"}
    for loss, values in expected.items():
        assert len(values) == golden.STEPS * golden.ACCUMULATION
        assert followed[loss] == pytest.approx(values, rel=1e-5), loss


def test_the_trajectories_are_those_of_the_version_that_names_finished_jobs():
    name, digest = golden_classifiers.name_and_digest(VERSIONS["distil"])
    assert golden.versions()[name] == digest, "raise VERSIONS['distil'] where they change on purpose"
