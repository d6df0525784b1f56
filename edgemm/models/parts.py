"""Parts with the usual ranges for their dimensions, and the frontends that come before towers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgemm.models.audio_frontend import AudioFrontend
from edgemm.models.frontend import sides
from edgemm.models.model import Part
from edgemm.models.part_kinds import module_from_config
from edgemm.runtime.manifest import Role
from edgemm.runtime.signature import DimRange, Signature, TensorSpec

BATCH = DimRange(1, 1, 32)
SIDE = DimRange(16, 128, 4096)


def part(
    name: str,
    role: Role,
    modality: str | None,
    kind: str,
    config: Mapping[str, object],
    inputs: Sequence[TensorSpec],
    output: TensorSpec,
    *,
    tokens: int = 0,
    dims: Mapping[str, DimRange] = {},
) -> Part:
    """Return a part with one output and the usual ranges for the dimensions it names, or those of ``dims``."""
    names = {d for spec in (*inputs, output) for d in spec.shape if isinstance(d, str)}
    known = {**dims, "batch": BATCH, "height": SIDE, "width": SIDE}
    if tokens:
        known["tokens"] = DimRange(1, min(16, tokens), tokens)
    signature = Signature(tuple(inputs), (output,), {n: known[n] for n in sorted(names)})
    return Part(name, role, modality, kind, config, signature, module_from_config(kind, config))


def frontend_part(config: Mapping[str, object]) -> Part:
    """``image`` to ``pixels``, for ``ImageFrontend``'s keyword arguments."""
    height, width = sides(config["size"])  # type: ignore[arg-type]
    image = TensorSpec("image", "uint8", ("batch", "height", "width", 3))
    pixels = TensorSpec("pixels", "float32", ("batch", 3, height, width))
    return part("image_frontend", "frontend", "image", "image-frontend", config, [image], pixels)


def audio_frontend_part(kind: str, config: Mapping[str, object]) -> Part:
    """``waveform`` to ``log_mel`` or ``normalised_waveform``, for an audio frontend's kind and keyword arguments."""
    module = module_from_config(kind, config)
    assert isinstance(module, AudioFrontend)
    name, shape = module.outputs
    waveform = TensorSpec("waveform", "float32", ("batch", "samples"))
    features = TensorSpec(name, "float32", ("batch", *shape))
    signature = Signature((waveform,), (features,), {"batch": BATCH, "samples": module.samples})
    return Part("audio_frontend", "frontend", "audio", kind, config, signature, module)


def text_specs() -> list[TensorSpec]:
    """``input_ids`` and ``attention_mask``."""
    return [TensorSpec(name, "int64", ("batch", "tokens")) for name in ("input_ids", "attention_mask")]
