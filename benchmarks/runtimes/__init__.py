"""What becomes of networks with attention in the runtimes that they are deployed in."""

MODULES = ("onnx_runtime", "openvino", "executorch", "aot_inductor")
"""The runtimes, in the order of the tables; each is a module of this package."""
