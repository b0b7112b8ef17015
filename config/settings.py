"""The root of the configuration: one section a field."""

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from config.controls import ControlsConfig
from config.health import ControlSettings, HealthSettings
from config.mind import CoreConfig, LoraConfig, TrainingConfig
from config.service import (
    AgentsSettings,
    BusSettings,
    FusionSettings,
    GenerationSettings,
    HostSettings,
    LoggingSettings,
    NightSettings,
    StateSettings,
    StoreSettings,
    SupervisionSettings,
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
    generation: GenerationSettings = GenerationSettings()
    fusion: FusionSettings = FusionSettings()
    agents: AgentsSettings = AgentsSettings()
    bus: BusSettings = BusSettings()
    host: HostSettings = HostSettings()
    supervision: SupervisionSettings = SupervisionSettings()
    health: HealthSettings = HealthSettings()
    control: ControlSettings = ControlSettings()
    logging: LoggingSettings = LoggingSettings()
    store: StoreSettings = StoreSettings()
    state: StateSettings = StateSettings()
    night: NightSettings = NightSettings()

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
