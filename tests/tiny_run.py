"""Arguments of a tiny pretraining run, for the tests of the modules that take them."""

from vjepa_hf.training.arguments import PretrainingArguments, parse_arguments

TINY = "--model.image_size 32 --model.num_frames 4 --model.patch_size 8 --model.hidden_size 32"
TINY += " --model.num_hidden_layers 1 --model.num_attention_heads 2 --model.pred_hidden_size 16"
TINY += " --model.pred_num_hidden_layers 1 --max_steps 10 --warmup_steps 4"


def tiny_arguments(*more: str) -> PretrainingArguments:
    """Arguments of a run of a tiny model, with more words of its command line."""
    return parse_arguments([*TINY.split(), *more])
