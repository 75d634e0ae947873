"""Publishing a model folder on the Hugging Face hub."""

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from rope_gpt2.errors import InputError

PUBLISHED = ["README.md", "*.json", "*.safetensors", "*.txt", "*.jinja"]  # of the folder; whatever else lies there stays at home


def check_hub(name: str) -> None:
    """Say before the work what would fail after it.

    Args:
        name: "owner/name", or a name of one's own.

    Raises:
        InputError: for a name that cannot be, or without a token or the network.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"--push-to-hub {name}: is no name of a model on the hub; give OWNER/NAME") from error
    if huggingface_hub.is_offline_mode():
        raise InputError("--push-to-hub needs the network, and HF_HUB_OFFLINE is set; unset it, or leave --push-to-hub out")
    if huggingface_hub.get_token() is None:
        raise InputError("--push-to-hub needs a token that may write; log in with `hf auth login`, or set HF_TOKEN")


def push(folder: Path, name: str, private: bool) -> str:
    """Create the repository where there is none, and upload the folder as one commit.

    Args:
        folder: a whole model folder.
        name: as in `check_hub`.
        private: of a repository that is created.

    Returns:
        Where it can be seen.

    Raises:
        InputError: if the hub refuses, or does not answer.
    """
    api = huggingface_hub.HfApi()
    try:
        repository = api.create_repo(name, private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=repository.repo_id, folder_path=folder, allow_patterns=PUBLISHED, commit_message="Upload by rope-gpt2 convert"
        )
    except Exception as error:  # the client, the network below it and the hub behind it have no error in common
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"--push-to-hub {name}: {folder} is written, but could not be published ({reason}); check network and token, then: "
            f"hf upload {name} {folder}"
        ) from error
    return str(repository)
