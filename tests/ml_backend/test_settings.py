"""Settings: where they come from, what is refused, and that the documentation lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_backend.cli.main import parse_arguments
from ml_backend.settings import Settings, load_settings, settings_table
from steerseg.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_arguments_come_before_the_environment_and_that_before_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings().port == 9090
    monkeypatch.setenv("STEERSEG_PORT", "9191")
    monkeypatch.setenv("STEERSEG_HOST", "")
    assert (load_settings().port, load_settings().host) == (9191, "127.0.0.1")
    assert load_settings(port=9292, host=None).port == 9292


def test_every_setting_but_secrets_is_an_option_of_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERSEG_WARM", "true")
    options = parse_arguments(
        ["serve", "--port", "1234", "--no-warm", "--allowed-hosts", "a.example", "b.example"]
    )
    settings = load_settings(**{name: getattr(options, name, None) for name in Settings.model_fields})
    assert (settings.port, settings.warm) == (1234, False)
    assert settings.allowed_hosts == ("a.example", "b.example")
    secrets = {"basic_auth_password", "webhook_secret", "label_studio_api_key", "database_url"}
    assert {name for name in Settings.model_fields if not hasattr(options, name)} == secrets


def test_lists_are_json_in_the_environment_and_that_or_several_values_as_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = parse_arguments(["serve", "--allowed-hosts", '["a.example", "b.example"]'])
    assert options.allowed_hosts == ["a.example", "b.example"]
    with pytest.raises(SystemExit):
        parse_arguments(["serve", "--allowed-hosts", "[a.example"])
    assert "is no JSON" in capsys.readouterr().err
    monkeypatch.setenv("STEERSEG_LOCAL_ROOTS", "/videos")
    with pytest.raises(ConfigError, match="STEERSEG_LOCAL_ROOTS: expected a list as JSON, such as"):
        load_settings()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"port": "0"}, "port (STEERSEG_PORT)"),
        ({"predict_timeout": "-1"}, "STEERSEG_PREDICT_TIMEOUT"),
        ({"log_level": "loud"}, "STEERSEG_LOG_LEVEL"),
        ({"label_studio_url": "localhost"}, "STEERSEG_LABEL_STUDIO_URL"),
        ({"basic_auth_username": "ann"}, "basic_auth_password"),
        ({"label_studio_api_key": "very-secret"}, "label_studio_url"),
    ],
)
def test_an_unusable_value_is_named_but_never_shown(given: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(**given)
    assert words in str(error.value)
    assert "very-secret" not in str(error.value)


def test_secrets_do_not_show() -> None:
    settings = load_settings(webhook_secret="hush", label_studio_url="http://ls/", label_studio_api_key="key")
    assert "hush" not in repr(settings)
    assert "'key'" not in repr(settings)
    assert settings.label_studio_url == "http://ls"


def test_every_setting_is_described() -> None:
    table = settings_table()
    for name, field in Settings.model_fields.items():
        assert field.description
        assert f"`STEERSEG_{name.upper()}`" in table


def test_the_documentation_lists_the_settings_as_they_are() -> None:
    assert settings_table() in PAGE.read_text(encoding="utf-8"), (
        "the table of settings in docs/configuration.md is out of date; write the output of "
        "`python -m ml_backend.settings` between its <!-- settings --> marks"
    )


def test_several_devices_and_the_form_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().devices == ("auto",)
    monkeypatch.setenv("STEERSEG_DEVICE", "cuda:0, cuda:1")
    monkeypatch.setenv("STEERSEG_LOG_FORMAT", "json")
    settings = load_settings()
    assert settings.devices == ("cuda:0", "cuda:1")
    assert settings.logging_setup.form == "json"
    for device in ("cpu,", "auto,cpu"):
        with pytest.raises(ConfigError, match="STEERSEG_DEVICE"):
            load_settings(device=device)
    with pytest.raises(ConfigError, match="expected text or json"):
        load_settings(log_format="xml")
