"""Measurements that fine-tune: training on a task of a suite, and the jobs that do it."""

from diito.evaluation.fine_tuning.train import FineTuning, fine_tune

__all__ = ["FineTuning", "fine_tune"]
