"""SE-ResNets and EfficientNets of pytorchcv."""

import pytest
import torch

from tests.clients.networks import check_swaps

pytest.importorskip("pytorchcv", reason="pytorchcv is not installed: pip install '.[clients]'")
from pytorchcv.models import efficientnet, mobilenetv3, seresnet  # noqa: E402

pytestmark = pytest.mark.clients
