"""Datasets, batches and calibration samples."""

from edgemm.data.dataset import Dataset, Sample, open_dataset

__all__ = ["Dataset", "Sample", "open_dataset"]
