"""Hub: the local folder of a Hugging Face name. huggingface_hub is touched here and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

from edgemm.runtime.errors import ModelError

WANTED = ["*.json", "*.safetensors", "*.txt", "*.model"]  # also those of folders inside, such as 1_Pooling


def snapshot(name: str) -> Path:
    """Return the local folder of ``name``: as it is, from the cache, or from the hub where it can be reached.

    Raises:
        ModelError: nowhere to be found, and why.
    """
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")):
        raise ModelError(f"hf:{name}: no such folder")
    if (cached := _cached(name)) is not None:
        return cached
    if os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE"):
        raise ModelError(f"hf:{name}: not in the local cache, and HF_HUB_OFFLINE forbids to fetch it")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=WANTED))
    except Exception as error:  # no network, no such repository, gated ...
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"hf:{name}: neither a folder, nor in the local cache, nor reachable ({reason}); "
            "give a local folder: hf:PATH"
        ) from error


def _cached(name: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=WANTED))
    except Exception:  # LocalEntryNotFoundError, HFValidationError ... by version
        return None
