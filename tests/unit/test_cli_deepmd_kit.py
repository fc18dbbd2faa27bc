"""Command lines that were written for DeePMD-kit."""

import pytest
from models import random_potential
from test_cli import fails, npy_system, train_input

from deepmd_lite.cli import _parsed, main
from deepmd_lite.cli.deepmd_kit import VERBS, without_backend
from deepmd_lite.model import save_model


@pytest.fixture(name="model")
def _model(tmp_path):
    path = tmp_path / "model.dpl"
    save_model(random_potential(), path, {"steps": 7})
    return path


@pytest.mark.parametrize(
    "flags", [["--pt"], ["--tf"], ["-b", "pytorch"], ["--backend", "jax"], ["--backend=pd"]]
)
@pytest.mark.parametrize("before", [True, False])
def test_a_backend_is_dropped_with_a_note(capsys, flags, before):
    words = ["info", "model.dpl"]
    args = _parsed([*flags, *words] if before else [*words, *flags])
    assert args.verb == "info"
    assert capsys.readouterr().err == (
        f"note: {' '.join(flags)} has no effect: there is one backend\n"
    )


def test_what_is_no_backend_is_kept():
    words = ["change-bias", "m.dpl", "-b", "-93.6", "-187.2", "-o", "n.dpl", "--", "--pt"]
    assert without_backend(words) == (words, [])
    assert without_backend(["train", "-b"]) == (["train", "-b"], [])


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_that_are_not_here_are_answered(capsys, verb):
    with pytest.raises(SystemExit) as stop:
        main(["--pt", verb, "-o", "x"])
    assert stop.value.code == 2
    assert f"dpl: error: {verb}: {VERBS[verb]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "noted"),
    [
        ("train x.json --skip-neighbor-stat", ["--skip-neighbor-stat"]),
        ("train x.json -l a.log -v 2 -m master", ["-l", "-v", "-m"]),
        ("train --log-path a.log x.json --log-level=INFO", ["--log-path", "--log-level"]),
        ("train x.json --force-load --model-branch H2O", ["--force-load", "--model-branch"]),
        ("test -m x.dpl -s a -S set -a -l a.log", ["-S", "-a", "-l"]),
        ("test -m x.dpl -s a --head H2O --atomic", ["--head", "--atomic"]),
        ("model-devi -m x.dpl -s a -S set -v 0", ["-S", "-v"]),
        ("change-bias x.dpl a -o y.dpl --model-branch H2O -v 3", ["--model-branch", "-v"]),
    ],
)
def test_options_that_change_nothing_are_noted(capsys, words, noted):
    args = _parsed(words.split())
    told = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in told] == noted
    assert all("has no effect: " in line for line in told)
    assert getattr(args, "paths", ["x.json"]) in (["x.json"], [], ["a"])
    _parsed([*words.split(), "-q"])
    assert capsys.readouterr().err == ""


def test_data_are_no_log_level(capsys):
    for verb, meant in (("train x.xyz", "validate on: --validation DATA"), ("devi", "")):
        with pytest.raises(SystemExit):
            _parsed([*verb.split(), "-v", "valid.xyz"])
        told = capsys.readouterr().err
        assert "'valid.xyz' is no log level of DeePMD-kit (DEBUG, 3, INFO" in told
        assert meant in told
        assert ("--validation DATA…\n" in told.splitlines(keepends=True)[-1]) == bool(meant)


def test_a_seed_without_a_shuffle_is_noted(tmp_path, capsys, model):
    assert main(["test", str(model), str(npy_system(tmp_path / "a")), "-r", "1"]) == 0
    assert "--rand-seed has no effect without --shuffle-test" in capsys.readouterr().err


def test_a_frozen_model_to_begin_with(tmp_path, capsys):
    path = train_input(tmp_path, npy_system(tmp_path / "data"))
    for option in ("-f", "--init-frz-model"):
        assert "give it as --init-model" in fails(capsys, "train", path, option, "graph.pb")


def test_a_fitting_network_that_should_begin_anew(capsys):
    with pytest.raises(SystemExit) as stop:
        _parsed(["train", "x.json", "--finetune", "m.dpl", "--model-branch", "RANDOM"])
    assert stop.value.code == 2
    assert "a fitting network that begins anew is not supported" in capsys.readouterr().err


def test_a_name_of_a_file_for_the_folder_of_results(tmp_path, capsys):
    path = train_input(tmp_path, npy_system(tmp_path / "data"))
    assert "give the name of a folder" in fails(capsys, "train", path, "-o", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()
