"""Measurements that fine-tune: training on a task of a suite, and the jobs that do it."""

from diito.renamed import attributes_of

__getattr__ = attributes_of(__name__, "diito.evaluation.fine_tuning.train")
