"""The task: few-shot, prompt-based sentiment classification. Knows nothing of RoPE or Lightning.

CSV → examples → demonstrations → template → prompts → batches → model → scoring → metrics → report: one file each.
"""
