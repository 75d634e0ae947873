"""GPT-2 with rotary position embeddings, trained and evaluated for few-shot sentiment classification.

Importing this package registers the model with transformers, so that `AutoModelForCausalLM.from_pretrained(folder)` loads it.
"""

from rope_gpt2.errors import InputError
from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM, RopeGPT2Model

__version__ = "0.8.4"
__all__ = ["InputError", "RopeGPT2Config", "RopeGPT2ForCausalLM", "RopeGPT2Model", "__version__"]
