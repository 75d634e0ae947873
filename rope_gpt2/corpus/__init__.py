"""THE TEXT: documents → token cache → packed training sequences. Knows nothing of sentiment, RoPE or Lightning."""
