"""Models by name: what is told from a configuration alone."""

import pytest
from transformers import AutoModelForCausalLM, GPT2Config

from diito.models.load import ModelSource, check_trained


def test_a_head_is_known_by_the_class_that_loads_it(tmp_path):
    source = ModelSource(str(tmp_path))
    config = GPT2Config(architectures=["GPT2LMHeadModel"])
    config.save_pretrained(tmp_path)
    check_trained(source, AutoModelForCausalLM, noun="causal language model")
    config.architectures = ["GPT2ForSequenceClassification"]
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it is a GPT2ForSequenceClassification"):
        check_trained(source, AutoModelForCausalLM, noun="causal language model")
