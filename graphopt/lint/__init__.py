"""What TensorRT will make of a quantized graph: each Q and DQ accounted for."""
