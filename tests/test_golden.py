"""Law 14: the present code follows the committed trajectories, and none changes without the version that names folders."""

import itertools

import golden
import pytest
import torch

from diito.run.manifest import VERSIONS

_PAIRS = (
    "blocks, in-batch, consecutive",
    "lines, independent, random",
    "lines, in-batch, masked",
    "blocks, independent, token-swap",
    "lines, independent, consecutive",
    "blocks, in-batch, random",
    "blocks, independent, masked",
    "lines, in-batch, token-swap",
)
"""Each rule with both layouts and both pairings."""


def _cases():
    """Of one encoder and one decoder the runs that have each pair of fields; the soak has the rest."""
    for teacher in (*golden.TEACHERS, *golden.DECODERS):
        for name, overrides in golden.cases(teacher):
            is_quick = teacher in ("bert", "gpt2") and name in _PAIRS
            marks = () if is_quick else (pytest.mark.soak,)
            yield pytest.param(teacher, name, overrides, id=f"{teacher}, {name}", marks=marks)


@pytest.mark.parametrize(("teacher", "name", "overrides"), list(_cases()))
def test_a_run_follows_its_golden_trajectory(teacher, name, overrides, tmp_path):
    expected = golden.read(teacher)[name]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        followed = golden.trajectory(teacher, overrides, tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert followed["losses"].keys() == expected["losses"].keys()
    for loss, values in expected["losses"].items():
        assert followed["losses"][loss] == pytest.approx(values, rel=1e-5), loss
    assert followed["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-5)


def test_the_trajectories_are_those_of_the_version_that_names_finished_jobs():
    known = golden.versions()
    for name, digest in golden.digests(VERSIONS["distil"]).items():
        assert known[name] == digest, "raise VERSIONS['distil'] where they change on purpose"


@pytest.mark.parametrize("teacher", (*golden.TEACHERS, *golden.DECODERS))
def test_a_trajectory_holds_twelve_micro_batches_of_all_losses(teacher):
    for run in golden.read(teacher).values():
        assert set(run["losses"]) == {*golden.WEIGHTS, "loss"}
        assert {len(values) for values in run["losses"].values()} == {golden.STEPS * golden.ACCUMULATION}


def test_every_run_differs_from_every_other():
    """A field that did nothing would leave two runs the same."""
    for teacher in (*golden.TEACHERS, *golden.DECODERS):
        runs = golden.read(teacher).values()
        first = [tuple(run["losses"]["causal_ce"]) for run in runs]
        assert all(one != other for one, other in itertools.combinations(first, 2))
