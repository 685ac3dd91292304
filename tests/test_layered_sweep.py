"""A sample of the families in docs/families.md comes out as the page says; ``python tests/sweep.py`` makes it anew."""

import pytest
from sweep import EQUAL, HEADS, TABLE, cells, outcome

SAMPLE = [
    ("albert", "masked LM"),
    ("bart", "masked LM"),
    ("deberta-v2", "masked LM"),
    ("longformer", "masked LM"),
    ("modernbert", "masked LM"),
    ("xlm-roberta", "masked LM"),
    ("bloom", "causal LM"),
    ("gemma2", "causal LM"),
    ("mistral", "causal LM"),
    ("opt", "causal LM"),
    ("qwen3", "causal LM"),
    ("electra", "sequence classification"),
    ("qwen2", "sequence classification"),
    ("mpnet", "token classification"),
]
LEAST = {"masked LM": 36, "causal LM": 140, "sequence classification": 90, "token classification": 75}


def table():
    """The rows of the page: (family, head) -> (runs, student)."""
    rows = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        columns = [column.strip() for column in line.strip("|").split("|")]
        if len(columns) == 4 and columns[1] in HEADS:
            rows[columns[0], columns[1]] = (columns[2], columns[3])
    return rows


@pytest.mark.parametrize(("family", "head"), SAMPLE)
def test_a_family_comes_out_as_the_table_says(family, head):
    runs, student = outcome(family, head)
    assert (cells(runs), student) == table()[family, head]


def test_the_table_has_every_family_and_none_that_is_wrong():
    rows = table()
    assert {(family, head) for head, names in HEADS.items() for family in names} <= set(rows)
    assert all(runs == EQUAL or runs.startswith(("refused: ", "not built: ")) for runs, _ in rows.values())
    for head, least in LEAST.items():
        assert sum(runs == EQUAL for (_, each), (runs, _) in rows.items() if each == head) >= least
