"""Recipes are strict: what they do not say right is an error that says what would be."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from surgery import formats
from surgery.applying.recipe import OPTIONAL, SECTIONS, read_recipe
from surgery.applying.strict import build, keys_of, settings_of
from surgery.errors import UsageError

OLD, HEAD = 'format = "surgery.recipe/1"\n', 'format = "surgery.recipe/2"\n'


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
            + '[localize]\ntheta_start = 4\nblocks = ["down"]\n[aggregate]\nminimum_prompts = 2\n'
            + '[harden]\nkeep_going = true\nrungs = ["zeroed"]\ngate_guidance = [1]\n'
            + '[audit]\nrequire = "replication"\nattack = ["embedding"]\ncurve = [0, 5]\nguidance = 1\n'
            + '[patch]\nkeep = ["NOTES.md"]\n[card]\nbase_model = "a/b"\n'
            + '[card.fields]\ntags = ["x"]\n[publish]\nrepo_id = "me/model"\n',
        )
    )
    assert read.path(read.corpus.prompts) == tmp_path / "p.txt"
    assert (read.aggregate.minimum_prompts, read.patch.keep) == (2, ("NOTES.md",))
    assert (read.localize.settings.theta_start, read.localize.settings.blocks) == (4.0, ("down",))
    assert (read.harden.keep_going, read.harden.settings.rungs) == (True, ("zeroed",))
    assert isinstance(read.harden.settings.gate_guidance[0], float)
    assert (read.audit.require, read.audit.settings.curve) == ("replication", (0, 5))
    assert isinstance(read.audit.settings.guidance, float)
    assert read.card_fields == {"tags": ["x"]}


def test_a_recipe_of_the_first_version_is_still_read(tmp_path):
    text = '[corpus]\nprompts = "p.txt"\n[localize]\ncriterion = "noise-changed"\n'
    text += "[aggregate]\nper_layer = true\n"
    read = read_recipe(recipe(tmp_path, OLD + text))
    assert (read.localize.settings.criterion, read.aggregate.per_layer) == ("noise-changed", True)
    assert read.audit is None and not read.audit_declined
    with pytest.raises(UsageError, match=r"\[audit\] is not of surgery.recipe/1; write format = .*/2"):
        read_recipe(recipe(tmp_path, OLD + "[audit]\n"))


def test_a_missing_audit_is_not_a_declined_one(tmp_path):
    assert not read_recipe(recipe(tmp_path, HEAD)).audit_declined
    assert read_recipe(recipe(tmp_path, HEAD + "audit = false\n")).audit_declined
    assert read_recipe(recipe(tmp_path, HEAD + "[audit]\n")).audit.require == "attack"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "start it with format"),
        ("format = ", "TOML"),
        (HEAD + '[model]\nsource = "..\\models"\n', "write paths with /"),
        (HEAD + "[modle]\n", "did you mean 'model'?"),
        (HEAD + '[model]\nsourc = "x"\n', "did you mean 'source'?"),
        (HEAD + "[model]\nsource = 3\n", "3 is not of type text"),
        (HEAD + '[aggregate]\nminimum_prompts = "2"\n', "is not of type integer"),
        (HEAD + "[aggregate]\nminimum_prompts = true\n", "is not of type integer"),
        (HEAD + "[aggregate]\nminimum_prompts = 0\n", "0 is less than 1"),
        (HEAD + 'model = "x"\n', "is not a table"),
        (HEAD + "localize = 1\n", "is not a table"),
        (HEAD + "[localize]\ntheta_strat = 4\n", "did you mean 'theta_start'"),
        (HEAD + '[localize]\ntheta_start = "5"\n', "is not of type number"),
        (HEAD + "[localize]\ntheta_start = nan\n", "[localize] theta-start: nan is not a number"),
        (HEAD + '[localize]\ncriterion = "magic"\n', "there is no 'magic'"),
        (HEAD + '[localize]\nblocks = ["down", 1]\n', "is not of type list of text"),
        (HEAD + '[localize]\nneurons = "n.json"\nseeds = 4\n', "[localize] seeds has no use"),
        (HEAD + '[localize]\nneurons = "n.json"\n[calibrate]\n', "[calibrate] has no use"),
        (HEAD + "[audit]\nseed = 4\n", "did you mean 'seeds'?"),
        (HEAD + '[audit]\nrequires = "attack"\n', "did you mean 'require'?"),
        (HEAD + '[audit]\nrequire = "prayer"\n', "choose from replication, attack, none"),
        (HEAD + '[audit]\nattack = ["embeding"]\n', "there is no 'embeding'"),
        (HEAD + "[audit]\ncurve = [5, 0]\n", "does not rise"),
        (HEAD + "[harden]\nrouns = 4\n", "did you mean 'rounds'?"),
        (HEAD + '[harden]\nrungs = ["hardened", "zeroed"]\n', "do not rise"),
        (HEAD + "[patch]\nstrict = 1\n", "1 is not of type boolean"),
        (HEAD + "[card]\nlicense = 'mit'\n", "unknown key 'license'"),
        (HEAD + "[card]\nfields = 1\n", "is not a table"),
        (HEAD + "[card.fields]\nwhen = 2020-01-01\n", "is neither text, number nor a list"),
        (HEAD + "audit = true\n", "is not a table"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path, text, complaint):
    with pytest.raises(UsageError) as error:
        read_recipe(recipe(tmp_path, text))
    assert complaint in str(error.value)
    assert "recipe.toml" in str(error.value)


def test_a_missing_recipe_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such recipe"):
        read_recipe(tmp_path / "absent.toml")


def test_paths_of_windows_and_of_home_are_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    read = read_recipe(recipe(tmp_path, HEAD + "[corpus]\nprompts = 'lists\\p.txt'\n"))
    assert read.path(read.corpus.prompts) == tmp_path / "lists" / "p.txt"
    assert read.path("..\\p.txt") == tmp_path.parent / "p.txt"
    assert read.path("~\\p.txt") == read.path("~/p.txt") == tmp_path / "home" / "p.txt"
    assert read.path(str(Path("/somewhere"))) == Path("/somewhere")


def test_every_key_is_described_and_no_other():
    known = {"format", "description", "card.fields.*"}
    for name, section in SECTIONS.items():
        own = {one.name for one in dataclasses.fields(section) if not settings_of(one)}
        known |= {f"{name}.{key}" for key in own}
        if own < keys_of(section).keys():
            known.add(f"{name}.*")
            for one in filter(None, map(settings_of, dataclasses.fields(section))):
                assert not own & {field.name for field in dataclasses.fields(one)}, "two meanings of one key"
    assert {one.path for one in formats.RECIPE.fields} == known
    assert set(OPTIONAL) <= SECTIONS.keys()


@given(
    st.sampled_from(sorted((name, key) for name in SECTIONS for key in keys_of(SECTIONS[name]))), st.data()
)
def test_any_slip_of_the_pen_is_noticed_and_a_near_key_suggested(place, data):
    """One letter of a key is lost or doubled, in any section: no key is ever passed over in silence."""
    (section, key), at = place, data.draw(st.integers(0, len(place[1]) - 1))
    slip = data.draw(st.sampled_from([key[:at] + key[at + 1 :], key[:at] + key[at] + key[at:]]))
    assume(slip not in keys_of(SECTIONS[section]))
    with pytest.raises(UsageError, match=f"unknown key {slip!r}; did you mean"):
        build(SECTIONS[section], {slip: 1}, f"recipe.toml [{section}]")


@given(st.sampled_from(sorted(SECTIONS)), st.data())
def test_no_value_of_any_type_makes_anything_but_a_section_or_one_error(section, data):
    key = data.draw(st.sampled_from(sorted(keys_of(SECTIONS[section]))))
    value = data.draw(
        st.one_of(
            st.booleans(),
            st.integers(-(2**70), 2**70),
            st.floats(),
            st.text(max_size=8),
            st.lists(st.one_of(st.integers(-9, 9), st.text(max_size=3), st.floats()), max_size=3),
            st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
        )
    )
    try:
        made = build(SECTIONS[section], {key: value}, f"recipe.toml [{section}]")
    except UsageError as error:
        assert str(error).startswith(f"recipe.toml [{section}]") and error.way_out
    else:
        assert isinstance(made, SECTIONS[section])
