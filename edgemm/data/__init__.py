"""Datasets, batches and calibration samples."""

from edgemm.data.dataset import Dataset, Pair, Sample, from_splits
from edgemm.data.opening import open_dataset
from edgemm.data.reading import root_of

__all__ = ["Dataset", "Pair", "Sample", "from_splits", "open_dataset", "root_of"]
