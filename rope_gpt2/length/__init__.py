"""How a language model's loss depends on length: windows, losses by position, attention distance. Any causal model of transformers."""
