from __future__ import annotations

import onnx_ir as ir
import pytest
import torch
from small_parts import image_part, pixels, text_part, tokens

from edgemm.graph.capture import capture_part


@pytest.fixture(scope="session")
def image_graph() -> ir.Model:
    return capture_part(image_part(), {"pixels": torch.from_numpy(pixels(2))})


@pytest.fixture(scope="session")
def text_graph() -> ir.Model:
    return capture_part(text_part(), {k: torch.from_numpy(v) for k, v in tokens(2).items()})
