"""Where libraries keep what they fetch and compile: in our cache directory, not in a home."""

from __future__ import annotations

import os

import platformdirs

from config import Paths

FOLDER = "libraries"

# What each library reads when it is imported, and its folder. Those for the parts of one
# (HF_HUB_CACHE, HF_XET_CACHE, HF_MODULES_CACHE …) follow from these.
_VARIABLES = {
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "TORCHINDUCTOR_CACHE_DIR": "torch_inductor",
    "PYTORCH_KERNEL_CACHE_PATH": "torch_kernels",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "PIP_CACHE_DIR": "pip",
}
# Nobody is told that we are here, and nothing looks for a newer version of itself.
_PRIVACY = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}


def use_library_caches(paths: Paths) -> None:
    """Set the variables of this process and its children; call it before a library is imported.

    What a user has set stays, and so does where a user has logged in to the hub.
    """
    token = platformdirs.user_cache_path("huggingface") / "token"
    if "HF_HOME" not in os.environ and os.access(token, os.R_OK):
        os.environ.setdefault("HF_TOKEN_PATH", str(token))  # it is only read
    for variable, name in _VARIABLES.items():
        os.environ.setdefault(variable, str(paths.cache_dir / FOLDER / name))
    for variable, value in _PRIVACY.items():
        os.environ.setdefault(variable, value)
