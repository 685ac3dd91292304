"""Benchmarks by their names: data, preprocessing and metric of each task."""
