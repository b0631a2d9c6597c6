"""Help is said by the settings themselves, and read without importing anything heavy."""

import subprocess
import sys
from dataclasses import fields

import pytest

from surgery.cli import main
from surgery.errors import UsageError
from surgery.localization.settings import LocalizeSettings
from surgery.options import add_options, default_of, flag_of, option_fields, settings_from

HEAVY = {"torch", "numpy", "diffusers", "transformers", "tqdm"}


@pytest.mark.parametrize("command", ["localize", "scan", "calibrate"])
def test_help_of_the_localizing_commands_imports_nothing_heavy(command):
    code = (
        "import sys, surgery.cli\n"
        f"try:\n    surgery.cli.main(['{command}', '--help'])\n"
        "except SystemExit:\n    pass\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "scoring:" in done.stdout


def test_every_setting_of_localization_is_an_option_with_its_default_in_the_help(capsys):
    assert [one for one, _ in option_fields(LocalizeSettings)] == list(fields(LocalizeSettings))
    with pytest.raises(SystemExit):
        main(["localize", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "--criterion NAME when a memory counts as broken",
        "seeds-diverge, noise-changed, target-gone (default: target-gone)",
        "--theta-step Z what the z-score threshold falls by from step to step (default: 0.25)",
        "down, mid, up (default: down mid)",
        "(default: each criterion's own)",
        "--key-layers search the key layers",
    ):
        assert words in shown


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (
            ["harden", "model", "--gate-guidance", "abc"],
            "surgery harden: argument --gate-guidance: 'abc' are not",
        ),
        (["harden", "model", "--prompts", "p.txt", "--no-such-flag"], "--no-such-flag"),
        (["audit"], "surgery audit: the following arguments are required: SOURCE"),
        (["hraden"], "invalid choice: 'hraden'"),
        (["patch", "a", "b", "-o", "c", "--device\nforged", "x"], "forged"),
    ],
)
def test_wrong_flags_are_one_line_that_says_where_help_is(words, cause, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    said = capsys.readouterr()
    assert stopped.value.code == 2 and not said.out and said.err.endswith("--help\n")
    assert cause in said.err and said.err.count("\n") == 1


def parsed(*words):
    import argparse

    parser = argparse.ArgumentParser()
    add_options(parser, LocalizeSettings)
    return settings_from(LocalizeSettings, parser.parse_args(words))


def test_options_become_settings_and_those_left_out_keep_their_defaults():
    assert parsed() == LocalizeSettings()
    words = "--key-layers --no-theta --no-spot-checks --include-unresolved --blocks down up --guidance 3"
    assert parsed(*words.split(), "--confirm-seeds", "4", "--top-k-start", "2") == LocalizeSettings(
        projection="key",
        use_theta=False,
        spot_checks=False,
        include_unresolved=True,
        blocks=("down", "up"),
        guidance=3.0,
        confirm_seeds=4,
        top_k_start=2,
    )
    assert parsed("--no-top-k") == LocalizeSettings(use_top_k=False)


def test_what_naming_an_option_changes_is_off_until_it_is_named():
    defaults = {flag_of(one): default_of(one) for one, _ in option_fields(LocalizeSettings)}
    assert defaults["--no-theta"] == defaults["--key-layers"] == "off"
    assert defaults["--theta-start"] == "5"


def test_a_setting_without_a_value_on_the_command_line_is_refused_by_its_own_name():
    with pytest.raises(UsageError, match=r"^projection: there is no 'query'"):
        LocalizeSettings(projection="query")
