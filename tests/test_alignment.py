"""Π: the paper's alignments written out, the controls, `.nm` files, and what is refused."""

import json
import math
import random

import pytest

from diito.method.alignment import AlignedPair, Alignment, dimension_ranges

# ------------------------------------------------------------------------------------------------- the paper's


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (12, 6, [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]),
        (12, 3, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
        (12, 9, [[0, 1], [2, 3], [4, 5], [6], [7], [8], [9], [10], [11]]),
        (12, 5, [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9], [10, 11]]),
        (4, 4, [[0], [1], [2], [3]]),
        (3, 1, [[0, 1, 2]]),
    ],
)
def test_full_cuts_the_teacher_into_contiguous_groups_the_first_larger(teacher, student, expected):
    alignment = Alignment.full(teacher, student)
    assert [list(pair.teacher) for pair in alignment.pairs] == expected
    assert [pair.student for pair in alignment.pairs] == [(layer,) for layer in range(student)]
    assert alignment.as_dict() == dict(enumerate(expected))
    assert all(pair.student_dimensions is None and pair.teacher_dimensions is None for pair in alignment.pairs)


@pytest.mark.parametrize(("teacher", "student"), [(12, 6), (12, 4), (12, 3), (12, 2), (24, 8)])
def test_full_is_the_papers_formula_where_the_depths_divide(teacher, student):
    ratio = teacher // student
    expected = {i: [i * ratio + k for k in range(ratio)] for i in range(student)}
    assert Alignment.full(teacher, student).as_dict() == expected


@pytest.mark.parametrize(
    ("kind", "teacher", "student", "expected"),
    [
        ("middle", 12, 6, {3: [6]}),
        ("middle", 12, 3, {1: [6]}),
        ("middle", 12, 9, {4: [6]}),
        ("middle", 1, 1, {0: [0]}),
        ("late", 12, 6, {0: [9], 1: [10]}),
        ("late", 12, 3, {0: [9], 1: [10]}),
        ("late", 3, 2, {0: [0], 1: [1]}),
        ("late_released", 12, 6, {3: [9], 4: [10]}),
        ("late_released", 12, 3, {0: [9], 1: [10]}),
        ("late_released", 12, 9, {6: [9], 7: [10]}),
    ],
)
def test_middle_and_late(kind, teacher, student, expected):
    alignment = getattr(Alignment, kind)(teacher_layers=teacher, student_layers=student)
    assert alignment.as_dict() == expected
    assert len(alignment.pairs) == len(expected)


@pytest.mark.parametrize("kind", ["full", "middle", "late", "late_released"])
@pytest.mark.parametrize(("teacher", "student"), [(0, 4), (12, 0), (0, 0), (12, -1)])
def test_depths_that_do_not_fit_are_refused(kind, teacher, student):
    with pytest.raises(ValueError, match=r"^student\.layers: "):
        getattr(Alignment, kind)(teacher, student)


@pytest.mark.parametrize(
    ("kind", "teacher", "student"), [("late", 12, 1), ("late", 2, 2), ("late_released", 12, 2), ("late_released", 2, 1)]
)
def test_late_needs_its_rows(kind, teacher, student):
    with pytest.raises(ValueError, match=r"^alignment\.kind: late"):
        getattr(Alignment, kind)(teacher, student)


# ----------------------------------------------------------------------------------------------- custom, controls


def test_a_custom_alignment_and_its_table():
    alignment = Alignment([AlignedPair(student=[3], teacher=[6, 7]), AlignedPair([0, 3], [1]), AlignedPair([3], [6])])
    assert alignment.as_dict() == {0: [1], 3: [1, 6, 7]}
    assert alignment == Alignment([AlignedPair((3,), range(6, 8)), AlignedPair([0, 3], [1]), AlignedPair([3], [6])])
    assert AlignedPair([0], [1], slice(2, 4), [(0, 3), (5, 9)]).student_dimensions == ((2, 4),)


@pytest.mark.parametrize("layers", [[], [1, 0], [1, 1], [-1], [-1, 2]])
def test_layers_of_a_pair_increase_from_zero(layers):
    for side, arguments in (("student", (layers, [0])), ("teacher", ([0], layers))):
        with pytest.raises(ValueError, match=rf"^alignment\.pairs: {side} layers .* must be increasing"):
            AlignedPair(*arguments)


def test_an_alignment_without_pairs_is_refused():
    with pytest.raises(ValueError, match=r"^alignment\.pairs: no pair is left"):
        Alignment([])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ((0, 4), ((0, 4),)),
        ([0, 4], ((0, 4),)),
        ([(0, 4)], ((0, 4),)),
        ([[4, 8], [0, 2]], ((4, 8), (0, 2))),
        ([(0, 2), (2, 4), (6, 8)], ((0, 2), (2, 4), (6, 8))),
        (slice(4), ((0, 4),)),
        (slice(1, 4, 1), ((1, 4),)),
        (range(2, 6), ((2, 6),)),
    ],
)
def test_dimensions_in_one_form(given, expected):
    assert dimension_ranges(given) == expected


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ((4, 4), r"\[4, 4\) is empty or negative"),
        ((5, 4), r"\[5, 4\) is empty"),
        ((-1, 4), r"\[-1, 4\) is empty or negative"),
        (slice(1, 5, 2), "step 1"),
        (slice(1, None), "must have a stop"),
        (range(5, 1, -1), "step 1"),
        ([], "no range is given"),
        ([(0, 4), (2, 6)], r"\[0, 4\) and \[2, 6\) overlap"),
        ([(4, 9), (0, 5)], "overlap"),
        ([(0, 4), (0, 4)], "overlap"),
    ],
)
def test_dimensions_that_are_no_set_of_neurons_are_refused(given, complaint):
    with pytest.raises(ValueError, match=rf"^dimensions: .*{complaint}"):
        dimension_ranges(given)


def test_without_top_drops_the_pairs_that_reach_the_students_last_layer():
    assert Alignment.full(12, 6).without_top(6).as_dict() == {i: [2 * i, 2 * i + 1] for i in range(5)}
    assert Alignment.middle(12, 6).without_top(6) == Alignment.middle(12, 6)
    spanning = Alignment([AlignedPair([0, 2], [1]), AlignedPair([0, 1], [1])])
    assert spanning.without_top(3).pairs == (AlignedPair([0, 1], [1]),)
    with pytest.raises(ValueError, match=r"^alignment\.top: every pair reaches the student's last layer"):
        Alignment.full(12, 1).without_top(1)


def test_shuffled_permutes_the_teachers_layers_and_never_by_the_identity():
    for depth in (2, 3, 12):
        one_to_one = Alignment.full(depth, depth)
        for seed in range(200):
            table = one_to_one.shuffled(depth, random.Random(seed)).as_dict()
            mapped = [table[layer] for layer in range(depth)]
            assert sorted(mapped) == [[layer] for layer in range(depth)]
            assert mapped != [[layer] for layer in range(depth)]
    full = Alignment.full(12, 6).shuffled(12, random.Random(0))
    assert [len(pair.teacher) for pair in full.pairs] == [2] * 6
    assert sorted(layer for pair in full.pairs for layer in pair.teacher) == list(range(12))
    assert [pair.student for pair in full.pairs] == [(layer,) for layer in range(6)]
    assert full == Alignment.full(12, 6).shuffled(12, random.Random(0)) != Alignment.full(12, 6).shuffled(12, random.Random(1))
    kept = Alignment([AlignedPair([0], [1], (0, 2), (3, 4))]).shuffled(2, random.Random(0)).pairs[0]
    assert kept == AlignedPair([0], [0], (0, 2), (3, 4))
    assert Alignment.full(1, 1).shuffled(1, random.Random(0)) == Alignment.full(1, 1)


def test_shuffles_are_uniform_over_the_other_permutations():
    """5 permutations of 3 layers in 5000 draws: 1000 each, five sigma = 5 * sqrt(800) = 141: odds of about 1 in 350,000."""
    counts: dict = {}
    for seed in range(5000):
        pairs = Alignment.full(3, 3).shuffled(3, random.Random(seed)).pairs
        counts[pairs] = counts.get(pairs, 0) + 1
    assert len(counts) == 5
    assert all(abs(count - 1000) < 5 * math.sqrt(5000 * 0.2 * 0.8) for count in counts.values())


def test_pairs_are_drawn_uniformly():
    """6 pairs in 6000 draws: 1000 each, five sigma = 144: odds of about 1 in 290,000 for all six."""
    alignment, generator = Alignment.full(12, 6), random.Random(0)
    drawn = [alignment.draw(generator) for _ in range(6000)]
    assert all(abs(drawn.count(pair) - 1000) < 5 * math.sqrt(6000 * 5 / 36) for pair in alignment.pairs)


@pytest.mark.parametrize(
    ("pair", "complaint"),
    [
        (AlignedPair([6], [0]), "alignment: the student has no layer 6; its layers are 0 to 5"),
        (AlignedPair([0], [3, 12]), "alignment: the teacher has no layer 12; its layers are 0 to 11"),
        (AlignedPair([0], [0], (0, 9)), r"alignment: student_dimensions \[0, 9\) do not lie in the student's width of 8"),
        (
            AlignedPair([0], [0], None, [(0, 2), (9, 17)]),
            r"teacher_dimensions \[9, 17\) do not lie in the teacher's width of 16",
        ),
    ],
)
def test_check_names_what_the_models_lack(pair, complaint):
    sizes = {"teacher_layers": 12, "student_layers": 6, "teacher_width": 16, "student_width": 8}
    Alignment([AlignedPair([0, 5], [0, 11], (0, 8), (0, 16))]).check(**sizes)
    with pytest.raises(ValueError, match=f"^{complaint}" if complaint.startswith("alignment") else complaint):
        Alignment([AlignedPair([0], [0]), pair]).check(**sizes)


# -------------------------------------------------------------------------------------------------------- .nm files


def nm(path, *mappings):
    """A neuron mapping as the authors' code has it: student and teacher variables of each pair."""
    entries = [{"student_variable_names": ours, "teacher_variable_names": theirs} for ours, theirs in mappings]
    path.write_text(json.dumps({"interchange_variable_mappings": entries}), encoding="utf-8")
    return path


def test_whole_heads_become_one_range(tmp_path):
    path = nm(
        tmp_path / "full.nm",
        (["$L:0$H:[0:12]$[0:64]"], ["$L:0$H:[0:12]$[0:64]", "$L:1$H:[0:12]$[0:64]"]),
        (["$L:1$H:[0:12]$[0:64]"], ["$L:[2:4]$H:[0:12]$[0:64]"]),
    )
    whole = (0, 768)
    assert Alignment.from_nm(path).pairs == (
        AlignedPair([0], [0, 1], whole, whole),
        AlignedPair([1], [2, 3], whole, whole),
    )


def test_single_heads_parts_of_heads_and_layer_ranges(tmp_path):
    path = nm(
        tmp_path / "parts.nm",
        (["$L:3$H:2$[0:64]"], ["$L:6$H:5$[16:32]"]),
        (["$L:[0:2]$H:[1:3]$[0:64]"], ["$L:7$H:[1:4]$[8:64]", "$L:5$H:[1:4]$[8:64]"]),
    )
    assert Alignment.from_nm(path).pairs == (
        AlignedPair([3], [6], (128, 192), (336, 352)),
        AlignedPair([0, 1], [5, 7], (64, 192), [(72, 128), (136, 192), (200, 256)]),
    )


def test_another_head_size(tmp_path):
    path = nm(tmp_path / "tiny.nm", (["$L:0$H:[0:2]$[0:8]"], ["$L:1$H:1$[0:4]"]))
    assert Alignment.from_nm(path, head_size=8).pairs == (AlignedPair([0], [1], (0, 16), (8, 12)),)
    with pytest.raises(ValueError, match=r"^alignment\.file: dimensions \[0:8\] do not lie in a head of 4"):
        Alignment.from_nm(path, head_size=4)


@pytest.mark.parametrize(
    ("student", "complaint"),
    [
        (["$L:0$H:[0:12]$[0:64]", "$L:1$H:[0:6]$[0:64]"], "name different dimensions"),
        (["L0"], r"'L0' is not of the form \$L:layers\$H:heads\$\[start:stop\]"),
        (["$L:0$H:0$[0:65]"], r"dimensions \[0:65\] do not lie in a head of 64"),
        ([], "dimensions"),
        (["$L:[2:2]$H:0$[0:64]"], "student layers"),
        (["$L:0$H:0$[8:8]"], "is empty"),
        (["$L:0$H:[3:3]$[0:64]"], "is empty"),
        (["$L:0$H:[3:3]$[0:32]"], "no range is given"),
        ([7], "is not a neuron mapping"),
    ],
)
def test_variables_that_make_no_pair_are_refused(tmp_path, student, complaint):
    path = nm(tmp_path / "bad.nm", (student, ["$L:0$H:0$[0:64]"]))
    with pytest.raises(ValueError, match=complaint):
        Alignment.from_nm(path)


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"interchange_variable_mappings": 3}', b"\xff\xfe", None])
def test_a_file_that_is_no_mapping_is_named(tmp_path, content):
    path = tmp_path / "other.nm"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^alignment\.file: .*other\.nm is not a neuron mapping"):
        Alignment.from_nm(path)
