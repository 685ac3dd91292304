"""What TRL's trainers ask for that a measured step does not use: arguments, a tokenizer, a data set."""

from __future__ import annotations

import tempfile
from typing import Any

from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast


def arguments(case: dict[str, Any]) -> dict[str, Any]:
    """Of a trainer on a processor: the fastest of what TRL offers there, without recomputed layers and loggers.

    ``beta`` 0 is KL(teacher ‖ student).
    """
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": case["batch"],
        "use_cpu": True,
        "bf16": case["precision"] == "bf16",
        "gradient_checkpointing": False,
        "report_to": "none",
        "beta": 0.0,
        "temperature": case["temperature"],
    }


def tokenizer() -> Any:
    """Of two words."""
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    words = Tokenizer(WordLevel({"<pad>": 0, "word": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<pad>", chat_template=template)


def conversations() -> Dataset:
    """One, in both of the trainers' forms."""
    said = [{"role": "user", "content": "word"}, {"role": "assistant", "content": "word"}]
    return Dataset.from_dict({"messages": [said], "prompt": ["word"]})


class Losses:
    """What both trainers have in common as sides: a trainer's ``compute_loss``, and accelerate's backward pass."""

    trainer: Any

    def parameters(self) -> Any:
        """What is trained."""
        return self.trainer.model.parameters()

    def backward(self, batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """The divergence, which is all the loss there is; its gradients are in the parameters."""
        with self.trainer.compute_loss_context_manager():
            loss = self.trainer.compute_loss(self.trainer.model, batch)
        self.trainer.accelerator.backward(loss)
        return {"ce": loss}
