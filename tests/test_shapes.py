"""What the tests rest on: types and axes of signatures are checked while they run."""

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

from diito.method.losses import token_mean
from diito.tables import markdown_text


def test_axes_of_one_name_are_of_one_length():
    with pytest.raises(BeartypeCallHintViolation, match="tokens"):
        token_mean(torch.ones(3), torch.ones(4))
    with pytest.raises(BeartypeCallHintViolation):
        token_mean(torch.ones(3, 1), torch.ones(3))


def test_arguments_without_axes_are_checked_as_well():
    with pytest.raises(BeartypeCallHintViolation):
        markdown_text(3)
