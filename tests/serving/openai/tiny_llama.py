"""A Llama with random weights and a tokenizer of bytes, in a folder as the hub has them: some hundred KB, for real engines."""

import sys
from pathlib import Path

__all__ = ["HEAD", "tiny_llama", "tiny_tokenizer"]

HEAD = 32
"""Width of a head of attention: the smallest that vLLM has kernels for on a CPU."""
SPECIAL = {"<s>": 0, "</s>": 1, "<pad>": 2}
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def tiny_tokenizer():
    """A token for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = SPECIAL | {letter: len(SPECIAL) + at for at, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    made.chat_template = TEMPLATE
    return made


def tiny_llama(folder: Path, *, seed: int = 1) -> None:
    """Write it. Its answers are letters without sense, and the same each time where the temperature is 0."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=2 * HEAD,
        intermediate_size=4 * HEAD,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # it says letters, and does not end by itself
        model.lm_head.weight[: len(SPECIAL)] = 0.0
        printable = {f"{chr(code)}" for code in range(97, 123)} | {"Ġ"}
        for letter, at in tokenizer.get_vocab().items():
            if letter not in printable:
                model.lm_head.weight[at] = 0.0
    model.save_pretrained(folder)


if __name__ == "__main__":
    tiny_llama(Path(sys.argv[1]))
