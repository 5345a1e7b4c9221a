"""Networks, trained with torch and exported to ONNX."""
