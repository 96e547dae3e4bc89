"""trtexec, TensorRT's own command: what it takes in each version, and what it writes."""
