"""The network: GPT-2 with rotary position embeddings. Knows nothing of sentiment, CSV or Lightning."""
