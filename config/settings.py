"""The root of the configuration: one section a field."""

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from config.controls import ControlsConfig
from config.health import Control, Health
from config.mind import CoreConfig, LoraConfig, TrainingConfig
from config.service import (
    Agents,
    Bus,
    Fusion,
    Generation,
    Host,
    Logging,
    Night,
    State,
    Store,
    Supervision,
)


class Settings(BaseSettings):
    """The whole configuration, frozen.

    `Settings()` holds the defaults; `config.load` reads the sources.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", strict=True, case_sensitive=True, env_prefix="SOVL_"
    )

    core_config: CoreConfig = CoreConfig()
    lora_config: LoraConfig = LoraConfig()
    training_config: TrainingConfig = TrainingConfig()
    controls_config: ControlsConfig = ControlsConfig()
    generation: Generation = Generation()
    fusion: Fusion = Fusion()
    agents: Agents = Agents()
    bus: Bus = Bus()
    host: Host = Host()
    supervision: Supervision = Supervision()
    health: Health = Health()
    control: Control = Control()
    logging: Logging = Logging()
    store: Store = Store()
    state: State = State()
    night: Night = Night()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keep a plain `Settings()` free of the process environment; `load` names its sources."""
        return (init_settings,)
