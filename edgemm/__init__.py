"""edgemm takes trained multimodal models (image, text, audio) to the edge.

The device side is ``edgemm.runtime`` (numpy and one engine); everything else is the workbench.
"""

__version__ = "0.1.0"
