"""Datasets, batches and calibration samples."""

from edgemm.data.dataset import Dataset, Sample
from edgemm.data.opening import open_dataset

__all__ = ["Dataset", "Sample", "open_dataset"]
