"""Measurements that fine-tune: training on a task of a suite, and the jobs that do it."""
