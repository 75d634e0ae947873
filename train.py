"""Train and score a RoPE GPT-2: `python train.py fit|validate|test|predict --config configs/NAME.yaml`, or `--help`."""

import sys

try:
    from rope_gpt2.commands.main import main
except KeyboardInterrupt:  # while torch and transformers are read, for some seconds
    print("interrupted", file=sys.stderr)
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
