"""The top of the command line: it finds a command, and says what is missing."""

import pytest

from tandem_cli import app
from tandem_cli.app import Command, main


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(command.name in shown and command.summary.split()[0] in shown for command in app.COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["fly"]])
def test_an_unknown_command_is_refused_with_the_known_ones(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("command", app.COMMANDS, ids=lambda command: command.name)
def test_every_command_shows_its_flags(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command.name, "--help"])
    assert f"tandem {command.name}" in capsys.readouterr().out


def test_a_command_whose_packages_are_missing_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr(app, "COMMANDS", (Command("fly", "not_installed_anywhere", "fly", "wings"),))
    assert main(["fly"]) == 2
    assert "pip install 'tandem-inference[wings]'" in capsys.readouterr().err
