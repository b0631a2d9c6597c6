"""Recipes are strict: what they do not say right is an error that says what would be."""

import pytest

from surgery.errors import UsageError
from surgery.localization.settings import LocalizeSettings
from surgery.recipe import build, read_recipe

HEAD = 'format = "surgery.recipe/1"\n'


def recipe(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_a_whole_recipe_is_read(tmp_path):
    read = read_recipe(
        recipe(
            tmp_path,
            HEAD
            + '[model]\nsource = "model"\n[corpus]\nprompts = "p.txt"\n'
            + '[localize]\ntheta_start = 4\nblocks = ["down"]\n[aggregate]\nminimum_prompts = 2\n',
        )
    )
    assert read.model.source == "model"
    assert read.path(read.corpus.prompts) == tmp_path / "p.txt"
    assert read.aggregate.minimum_prompts == 2
    settings = build(LocalizeSettings, dict(read.localize), "[localize]")
    assert settings.theta_start == 4
    assert settings.blocks == ("down",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "start it with format"),
        ("format = ", "TOML"),
        (HEAD + "[modle]\n", "did you mean 'model'?"),
        (HEAD + '[model]\nsourc = "x"\n', "did you mean 'source'?"),
        (HEAD + "[model]\nsource = 3\n", "3 is not of type"),
        (HEAD + '[aggregate]\nminimum_prompts = "2"\n', "is not of type int"),
        (HEAD + "[aggregate]\nminimum_prompts = true\n", "is not of type int"),
        (HEAD + 'model = "x"\n', "is not a table"),
        (HEAD + "localize = 1\n", "is not a table"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path, text, complaint):
    with pytest.raises(UsageError) as error:
        read_recipe(recipe(tmp_path, text))
    assert complaint in str(error.value)
    assert "recipe.toml" in str(error.value)


def test_a_wrong_setting_is_refused():
    with pytest.raises(UsageError, match="did you mean 'theta_start'"):
        build(LocalizeSettings, {"theta_strat": 4}, "[localize]")
    with pytest.raises(UsageError, match="is not of type float"):
        build(LocalizeSettings, {"theta_start": "5"}, "[localize]")


def test_a_missing_recipe_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such recipe"):
        read_recipe(tmp_path / "absent.toml")
