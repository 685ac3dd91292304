"""The page of ``diito explore``: interchange interventions in a teacher and its students, looked at one text at a time.

A thin room: what is shown is computed in ``diito.evaluation.one_pair``.
"""
