"""Every setting of the backend, in one class; each is an environment variable ``STEERSEG_<NAME>``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from ml_backend.database.address import Address, ServerAddress
from ml_backend.logs import JSON, TEXT, LoggingSetup
from steerseg.errors import ConfigError

ENV_PREFIX = "STEERSEG_"
_UNIT_MIB = 1024 * 1024


@dataclass(frozen=True)
class Schedule:
    """A recurring time.

    Attributes:
        at: Time of day, by this machine's clock; ``None`` where ``every`` is set.
        every: Time from one to the next; ``None`` where ``at`` is set.
    """

    at: time | None = None
    every: timedelta | None = None

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read a time of day, ``HH:MM``, or a number of hours, ``Nh``.

        Raises:
            ValueError: It is neither, or the hours have more than six digits.
        """
        daily = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text.strip())
        if daily:
            return cls(at=time(int(daily[1]), int(daily[2])))
        hourly = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)\s*h", text.strip())
        if hourly and float(hourly[1]) > 0:
            return cls(every=timedelta(hours=float(hourly[1])))
        raise ValueError("expected a time of day such as 02:30, or a number of hours such as 6h")

    def due(self, last: datetime | None, now: datetime) -> bool:
        """Whether the time has come since ``last``; a time that was missed counts as come.

        Args:
            last: When it was done last; ``None`` for never.
            now: The present. Both know their time zones.
        """
        if last is None:
            return True
        if self.every is not None:
            return now - last >= self.every
        assert self.at is not None
        here = now.astimezone()
        latest = here.replace(hour=self.at.hour, minute=self.at.minute, second=0, microsecond=0)
        if latest > here:
            latest -= timedelta(days=1)
        return last < latest


class Settings(BaseSettings):
    """The backend's settings. Values come from arguments, then the environment, then the defaults."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    # --- the server
    host: str = Field("127.0.0.1", description="Address to listen on; `0.0.0.0` for every interface.")
    port: int = Field(9090, ge=1, le=65535, description="Port to listen on.")
    server_names: tuple[str, ...] = Field(
        (),
        description="Further names by which Label Studio and browsers call this server, as JSON "
        '(`["backend", "gpu-box.example.org"]`). Names of this machine alone and the address to listen on are known; '
        "where it listens on every interface, so are this machine's name and every bare IP address.",
    )
    public_url: str | None = Field(
        None,
        description="Address by which browsers reach the pages through a proxy, such as "
        "`https://steerseg.example.org`. Its name counts as this server's own, and its pages may change things.",
    )
    data_dir: Path = Field(
        Path("steerseg-data"),
        description="Folder of the database, the cached media and the stored proposals. Made if missing.",
    )
    database_url: SecretStr | None = Field(
        None,
        description="Address of a database of a PostgreSQL server, such as "
        "`postgresql+psycopg://user:password@host:5432/steerseg`; needs the extra `postgresql`. Unset: a file of "
        "SQLite in the data folder.",
    )
    threads: int = Field(32, ge=4, le=512, description="Requests that are answered at the same time.")
    max_request_mib: int = Field(
        512,
        ge=1,
        description="Largest request body in MiB; Label Studio sends a task's annotations and predictions.",
    )
    log_level: str = Field("INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`.")
    log_format: str = Field(
        "text",
        description="`text` for lines that a person reads, `json` for one JSON object a line.",
    )
    basic_auth_username: str | None = Field(
        None,
        description="User name that pages and calls ask for (HTTP basic auth). A webhook may bring "
        "its own secret in its place; `/media/` asks hosts of a cluster for a token of theirs.",
    )
    basic_auth_password: SecretStr | None = Field(None, description="Its password. Set both or neither.")
    webhook_secret: SecretStr | None = Field(
        None,
        description="Secret that webhooks bring in the header `X-SteerSeg-Secret`; `connect` sets it up.",
    )

    # --- the models
    preset: str = Field("demo", description="Name or folder of the preset that holds or names the models.")
    device: str = Field(
        "auto",
        description="`auto`, `cpu`, `cuda` or `cuda:N`; or several, such as `cuda:0,cuda:1`, each of which gets a "
        "model process of its own.",
    )
    cluster: str | None = Field(
        None,
        description="Ray cluster whose hosts work too, of which this machine is a host: `auto`, or `host:port` of its "
        "head; needs the extra `fleet`. With it, this machine itself works only on devices that STEERSEG_DEVICE "
        "names.",
    )
    cluster_worker_cpus: int = Field(
        0,
        ge=0,
        description="Cores of a worker on hosts of the cluster that have no GPU; 0 for no workers there. Each GPU has "
        "a worker in any case.",
    )
    cluster_media: str | None = Field(
        None,
        description="Where hosts of the cluster get media: a folder that every host sees, a bucket such as "
        "`s3://videos/cache`, or this server as they reach it (`http://backend:9090`). Unset: this server at "
        "STEERSEG_HOST, which other machines do not reach at 127.0.0.1.",
    )
    cluster_cache_dir: Path = Field(
        Path("~/.cache/steerseg/media"),
        description="Folder on each host of the cluster where media are kept, below STEERSEG_MEDIA_CACHE_MIB; `~` is "
        "the home of whoever runs Ray there.",
    )
    warm: bool = Field(True, description="Load the models when the server starts, not at the first request.")
    compile_models: bool = Field(
        False,
        description="Compile SAM 2 by `torch.compile` when the models are loaded, which takes minutes; on an H100 "
        "frames took longer with it than without. EdgeTAM and SAM 3 run as they are, and the log says so.",
    )
    alternatives: int = Field(
        3, ge=1, le=20, description="Most ranked tracklets per task; each becomes a prediction of its own."
    )
    check_both_ways: bool = Field(
        False,
        description="Track each batch proposal anew over the keyframes, from its first mask forwards and from its last "
        "one backwards: where these disagree is a frame to check.",
    )
    max_attempts: int = Field(
        2,
        ge=1,
        le=10,
        description="How often a request is tried when the model process dies under it.",
    )
    max_queue: int = Field(
        1000,
        ge=1,
        description="Tasks that may wait for their predictions; `/predict` answers 503 with `Retry-After` to "
        "batches beyond.",
    )
    stall_timeout: float = Field(
        1800.0,
        gt=0,
        description="Seconds without any sign of progress after which the model process is replaced.",
    )
    video_memory_mib: int = Field(
        4096,
        ge=64,
        description="Size in MiB of the videos, and of SAM 2's features of them, that a model process keeps for "
        "the next click; the least recently used go first.",
    )
    prefix_memory_mib: int | None = Field(
        None,
        ge=0,
        description="Size in MiB of what a GPU keeps of the language model's work on a video, for further "
        "expressions; a third of what the weights leave free where left out, at most 6144, or 24576 where that third "
        "is 16384 or more. Below 16384, about twice as much waits in the host's memory, at most a quarter of it.",
    )

    # --- Label Studio
    label_studio_url: str | None = Field(
        None,
        description="Address of Label Studio as the backend reaches it. Unset: what `/setup` says.",
    )
    label_studio_api_key: SecretStr | None = Field(
        None,
        description="Access token (personal or legacy) for reading media and writing predictions; needs "
        "`STEERSEG_LABEL_STUDIO_URL`. Unset: the token that `/setup` brings, kept in memory only.",
    )
    expression_key: str = Field("expression", description="Key of a task's data that holds its expression.")
    default_expression: str | None = Field(
        None,
        description="Expression of tasks that have none. A project overrides it by the extra parameter "
        '`{"expression": "..."}` of its model connection.',
    )
    predict_timeout: float = Field(
        90.0,
        gt=0,
        description="Seconds after which `/predict` answers with what is ready, the rest being pushed later. "
        "Label Studio itself gives up after 100 (`ML_TIMEOUT_PREDICT`).",
    )
    push_predictions: bool = Field(
        True,
        description="Push late predictions through Label Studio's API. Off: the next request gets them.",
    )

    # --- corrections
    reconcile_interval: float = Field(
        900.0,
        gt=0,
        description="Seconds between two readings of a project's annotations, which find what webhooks lost.",
    )
    untouched_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="How much an accepted proposal that nobody changed counts in training; a corrected one is 1.",
    )
    box_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Factor for what annotators draw as boxes, of which SAM 2 makes masks.",
    )
    propagate_corrections: bool = Field(
        True, description="Let SAM 2 fill the frames between corrected ones while nobody waits for it."
    )
    propagation_confidence: float = Field(
        0.8, ge=0, le=1, description="Least confidence of a propagated mask for export and training."
    )

    # --- refinement
    refine_after: int = Field(
        20,
        ge=0,
        description="Accepted corrections after which a project's soft prompts are refined by themselves; 0 for "
        "never. A project's own number in Label Studio (`min_annotations_to_start_training` above 1) comes first.",
    )
    refine_schedule: str | None = Field(
        None,
        description="When projects with new corrections are refined by themselves: a time of day (`02:30`) or "
        "every so many hours (`6h`).",
    )
    refine_cache_mib: int = Field(
        2048,
        ge=1,
        description="Size in MiB that the vision features of training videos may take on disk; with more, the "
        "oldest corrections do not take part.",
    )
    watch_promotions: bool = Field(
        True,
        description="Take a promoted version back by itself where its proposals do worse in use than those of the "
        "version before it. What a person promoted stays.",
    )
    repredict: bool = Field(
        True,
        description="Predict tasks without annotations anew after a promotion, the least certain ones first.",
    )

    # --- media
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description='Hosts besides Label Studio that media may come from, as JSON (`["cdn.example.org"]`); '
        "empty: any public host.",
    )
    allow_private_addresses: bool = Field(
        False, description="Allow media from private and loopback addresses other than Label Studio's own."
    )
    max_download_mib: int = Field(2048, ge=1, description="Largest media file in MiB.")
    media_cache_mib: int = Field(
        10_240, ge=1, description="Size in MiB that the cache of media is kept below, where it can be."
    )
    download_timeout: float = Field(
        60.0,
        gt=0,
        description="Seconds that one file may take to download; all pages of a task, ten times as many.",
    )
    local_roots: tuple[Path, ...] = Field(
        (),
        description='Folders below which tasks may name paths of this machine, as JSON (`["/videos"]`).',
    )
    local_files_root: Path | None = Field(
        None,
        description="Label Studio's local-files root, if this machine sees it: such media are then read from "
        "disk, without a download.",
    )
    cloud_roots: tuple[str, ...] = Field(
        (),
        description="Buckets, or folders in them, that are read with this machine's own credentials, as JSON "
        '(`["s3://videos/raw"]`); needs the extra `cloud`. Others are read through Label Studio.',
    )

    @field_validator("database_url")
    @classmethod
    def _is_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            ServerAddress.parse(value.get_secret_value())
        return value

    @field_validator("cloud_roots")
    @classmethod
    def _are_cloud_roots(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for root in value:
            if not re.fullmatch(r"(s3|gs|azure-blob)://[^/?#]+(/[^?#]*)?", root):
                raise ValueError(
                    "expected buckets such as s3://videos, gs://videos/raw or azure-blob://videos"
                )
        return value

    @field_validator("cluster")
    @classmethod
    def _is_cluster(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("ray://"):
            # A Ray client of that kind cannot call what streams its reports.
            raise ValueError(
                "expected auto or host:port: let this machine join the cluster (ray start --address=host:port "
                "--num-cpus=0), since ray:// addresses bring no progress"
            )
        if value is not None and not re.fullmatch(r"auto|(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d+", value):
            raise ValueError("expected auto, or host:port of the cluster's head")
        return value

    @field_validator("cluster_media")
    @classmethod
    def _is_media_location(cls, value: str | None) -> str | None:
        if value is None or value.startswith("/") or re.fullmatch(r"[a-z][a-z0-9+-]*://[^?#@]+", value):
            return value
        raise ValueError("expected an absolute path, a bucket such as s3://videos, or http://host:port")

    @field_validator("label_studio_url", "public_url")
    @classmethod
    def _is_http_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected an address such as http://localhost:8080")
        return value.rstrip("/")

    @field_validator("server_names")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", name):
                raise ValueError(
                    "expected names such as backend or gpu-box.example.org, without scheme and port"
                )
        return value

    @field_validator("refine_schedule")
    @classmethod
    def _is_schedule(cls, value: str | None) -> str | None:
        if value is not None:
            Schedule.parse(value)
        return value

    @field_validator("device")
    @classmethod
    def _are_devices(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",")]
        if not all(names):
            raise ValueError("expected a device, or several such as cuda:0,cuda:1")
        if len(names) > 1 and "auto" in names:
            raise ValueError("expected auto alone, or the name of each device, such as cuda:0,cuda:1")
        return ",".join(names)

    @field_validator("log_format")
    @classmethod
    def _is_log_format(cls, value: str) -> str:
        if value not in (TEXT, JSON):
            raise ValueError("expected text or json")
        return value

    @field_validator("log_level")
    @classmethod
    def _is_log_level(cls, value: str) -> str:
        if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError("expected DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.basic_auth_username is None) != (self.basic_auth_password is None):
            raise ValueError("set both basic_auth_username and basic_auth_password, or neither")
        if self.label_studio_api_key is not None and self.label_studio_url is None:
            # A key without an address would go wherever the next /setup request points.
            raise ValueError("label_studio_api_key needs label_studio_url, so that the key goes nowhere else")
        return self

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each model process on this machine."""
        if self.cluster is not None and self.device == "auto":
            return ()
        return tuple(self.device.split(","))

    @property
    def logging_setup(self) -> LoggingSetup:
        """How the server logs."""
        return LoggingSetup(self.log_level, self.log_format)

    @property
    def database(self) -> Address:
        """The database: that of ``database_url``, or the file in the data folder."""
        if self.database_url is None:
            return self.database_file
        return ServerAddress.parse(self.database_url.get_secret_value())

    @property
    def database_file(self) -> Path:
        """The file of SQLite in the data folder, whether it is used or not."""
        return self.data_dir / "steerseg.sqlite"

    @property
    def max_request_bytes(self) -> int:
        """Largest request body in bytes."""
        return self.max_request_mib * _UNIT_MIB

    @property
    def max_download_bytes(self) -> int:
        """Largest media file in bytes."""
        return self.max_download_mib * _UNIT_MIB

    @property
    def video_memory_bytes(self) -> int:
        """Size of the videos that the model process keeps, in bytes."""
        return self.video_memory_mib * _UNIT_MIB

    @property
    def prefix_bytes(self) -> int | None:
        """Size of what is kept of the language model's work, in bytes."""
        return None if self.prefix_memory_mib is None else self.prefix_memory_mib * _UNIT_MIB

    @property
    def refine_cache_bytes(self) -> int:
        """Size of the vision features of training videos in bytes."""
        return self.refine_cache_mib * _UNIT_MIB

    @property
    def media_cache_bytes(self) -> int:
        """Size of the media cache in bytes."""
        return self.media_cache_mib * _UNIT_MIB


def load_settings(**overrides: object) -> Settings:
    """Read the settings; ``overrides`` that are not ``None`` come before the environment.

    Raises:
        ConfigError: A value is unusable. The message names each setting and its environment variable, never
            the value, which may be a secret.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except SettingsError as error:
        meant = [f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields if f'"{name}"' in str(error)]
        raise ConfigError(
            f"the settings cannot be used: {' and '.join(meant) or error}: expected a list as JSON, such as "
            '["one", "two"]'
        ) from None
    except ValidationError as error:
        problems = []
        for problem in error.errors(include_input=False, include_url=False):
            name = ".".join(str(part) for part in problem["loc"])
            where = f"{name} ({ENV_PREFIX}{name.upper()}): " if name else ""
            problems.append(where + problem["msg"].removeprefix("Value error, "))
        raise ConfigError("the settings cannot be used: " + "; ".join(problems)) from None


def settings_table() -> str:
    """The settings as a Markdown table, for the documentation."""
    rows = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = _describe_default(field.default)
        rows.append(f"| `{ENV_PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def _describe_default(default: object) -> str:
    if default is None:
        return "unset"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if default == ():
        return "`[]`"
    if isinstance(default, float) and default.is_integer():
        return f"`{int(default)}`"
    return f"`{default}`"


if __name__ == "__main__":
    print(settings_table(), end="")
