"""What the sample page of the tests tells beside its scores: a manifest, and a review that would rather be markup."""

from rope_gpt2.fewshot.page import RunInfo

HOSTILE = (
    "</q></pre></details><script>document.title = 'pwned'</script><img src=x onerror='document.title = 1'>"
    """ {{ 7 * 7 }} "&amp; it's"."""
)
MANIFEST = {
    "command": ["rope-gpt2", "evaluate", "--template", "Review: {text}\nSentiment: {label}\n\n"],
    "options": {"checkpoint": "checkpoints/mini", "data": "sst2"},
    "versions": {"python": "3.11.2", "torch": "2.13.0"},
    "files": {"data": {"path": "data/<b>.csv", "sha256": "ab" * 32}},
    "device": {"type": "cpu", "threads": 2},
    "precision": "32-true",
    "nothing": None,
}
INFO = RunInfo("checkpoints/mini", "sst2 & more", MANIFEST)
