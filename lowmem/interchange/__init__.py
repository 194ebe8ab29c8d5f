"""Networks as files of other tools: safetensors, PyTorch, ONNX."""
