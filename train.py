"""Train and score a RoPE GPT-2: `python train.py fit|validate|test|predict --config configs/NAME.yaml`, or `--help`."""

import sys

from rope_gpt2_command import main

if __name__ == "__main__":
    sys.exit(main("train"))
