"""Measurements that EleutherAI's lm-evaluation-harness makes."""
