"""The tutorial: a notebook of 15 cells, each of which runs, and which shows what it says."""

import json
import pathlib

import pytest

NOTEBOOK = json.loads((pathlib.Path(__file__).parent.parent / "docs" / "tutorial.ipynb").read_text())
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_it_has_fifteen_cells_of_plain_python_and_no_stale_output():
    assert NOTEBOOK["nbformat"] == 4 and len(NOTEBOOK["cells"]) == 15
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == 15
    assert "pip" in CODE[0] and "mu_jax" in CODE[0]
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            compile("".join(cell["source"]), cell["id"], "exec")
    # In Colab nothing is there but what was installed.
    assert not any("open(" in source or "configs/" in source for source in CODE)


@pytest.mark.slow
def test_every_cell_runs_and_the_figures_bear_the_text_out(monkeypatch, capsys):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    namespace = {"__name__": "tutorial"}
    for source in CODE:
        exec(compile(source, "tutorial", "exec"), namespace)
    assert len(shown) == 2
    plt.close("all")
    printed = capsys.readouterr().out
    for name in ("original", "finetune", "random_labels", "amun", "retrain"):
        assert f"\n{name}" in printed
    found, lira = namespace["found"], namespace["lira"]
    assert found["original"]["accuracy"]["forget"] > 0.97 > found["retrain"]["accuracy"]["forget"]
    loss = {name: found[name]["attacks"]["loss_threshold"]["auc"] for name in found}
    # Of 40 forgotten images: an AUC of nothing but chance is 0.5 ± 0.05.
    assert loss["original"] > 0.6 and loss["original"] - loss["retrain"] > 0.1
    assert abs(loss["retrain"] - 0.5) < 0.15
    assert lira["original"] > 0.75 and abs(lira["retrain"] - 0.5) < 0.15
