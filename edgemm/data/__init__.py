"""Datasets, batches and calibration samples."""

from edgemm.data.call_reader import root_of
from edgemm.data.dataset import Dataset, Pair, Sample, from_splits
from edgemm.data.opening import open_dataset

__all__ = ["Dataset", "Pair", "Sample", "from_splits", "open_dataset", "root_of"]
