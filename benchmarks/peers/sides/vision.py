"""torchvision, which torchdistill brings, where its build is another than torch's: PyPI's for CUDA beside torch for processors.

Its operators are missing then, and whatever looks at it cannot be imported, transformers' models among it. No side calls one,
so that it is enough to declare those that torchvision itself refers to.
"""

import importlib.util

import torch

declared = torch.library.Library("torchvision", "FRAGMENT")

if importlib.util.find_spec("torchvision") is not None:
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
