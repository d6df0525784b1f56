"""Graph: from the modules of a model to the graphs and plans that ship: capture, passes, quantization, building."""
