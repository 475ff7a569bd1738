"""Pictures of the ratios of edges are drawn from plain data; what is on them is asked of the figure's artists."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_graphs import Layers, graphs, measure
from sample_reports import INPUTS, SMOLLM2, report
from scipy import stats

from maprobe.measurements.edge_distribution import EDGE_DISTRIBUTION
from maprobe.measurements.edge_ratios import EDGE_RATIOS
from maprobe.readings import Reading
from maprobe.recipes import MeasurementRecipe
from maprobe.reporting.plots import canvas, edges, gallery
from maprobe.reporting.plots.canvas import Undrawable, styled
from maprobe.reporting.report import ReadingUse
from maprobe.verdicts import Status, Verdict


def taken(recipe: MeasurementRecipe, features: Layers, **options: object) -> Reading:
    """A reading as it comes out of a report's JSON, where nan is a text."""
    found = replace(measure(recipe, features, **options), circumstances=replace(INPUTS, bos="", measure=recipe.name))
    return Reading.from_dict(found.to_dict())


def drawn(draw: Callable[[ReadingUse], Any], reading: Reading) -> Any:
    with styled():
        figure = draw(ReadingUse(checkpoint=SMOLLM2, reading=reading, probes=("probe",)))
        figure.canvas.draw()
    return figure


def texts(figure: Any) -> str:
    return " ".join(" ".join(text.get_text().split()) for text in figure.texts)


def massive(value: float = 9000.0) -> Layers:
    features = graphs(40, 30, layers=3)
    features[2][1][3, 5] = value
    return features


class TestCurves:
    def test_each_layer_has_a_line_through_its_sorted_ratios_on_a_log_axis(self) -> None:
        reading = taken(EDGE_RATIOS, massive())
        (axes,) = drawn(edges.draw_curves, reading).axes
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert ["layer 1", "layer 2", "layer 3", "massive: above 1\u2009000"] == list(lines)
        for layer in (1, 2, 3):
            rows = [record for record in reading.records if layer == record["layer"]]
            assert [row["rank"] for row in rows] == list(lines[f"layer {layer}"].get_xdata())
            assert [row["ratio"] for row in rows] == list(lines[f"layer {layer}"].get_ydata())
        assert ("log", (0.0, 1.0)) == (axes.get_yscale(), axes.get_xlim())
        assert 3 == len({line.get_color() for line in axes.get_lines()[:3]})

    def test_the_bound_is_a_red_dotted_line_where_the_probe_has_it(self) -> None:
        bound = drawn(edges.draw_curves, taken(EDGE_RATIOS, massive(), over=250)).axes[0].get_lines()[-1]
        assert ([250.0, 250.0], canvas.RED, ":") == (list(bound.get_ydata()), bound.get_color(), bound.get_linestyle())

    def test_the_title_tells_which_layers_are_above_it(self) -> None:
        assert f"{SMOLLM2}: ratios of edges; some above 1 000 in layer 2" in texts(
            drawn(edges.draw_curves, taken(EDGE_RATIOS, massive()))
        )
        twin = drawn(edges.draw_curves, taken(EDGE_RATIOS, massive(0.5)))
        assert "none above 1 000 in layers 1..3" in texts(twin)
        assert "4 x 512 tokens of python-docs; float32" in texts(twin)

    def test_an_infinite_ratio_is_a_gap_and_is_massive(self) -> None:
        features = massive(0.5)
        features[1][0][0] = 0.0
        features[1][0][0, 1] = 1.0
        figure = drawn(edges.draw_curves, taken(EDGE_RATIOS, features))
        assert math.isnan(figure.axes[0].get_lines()[0].get_ydata()[-1])
        assert "some above 1 000 in layer 1" in texts(figure)
        assert "layer 1 has 7 entries that are 0" in texts(figure)

    def test_an_unknown_layer_has_no_line_and_nothing_but_these_is_no_picture(self) -> None:
        features = graphs(40, layers=2)
        features[1][0][0, 0] = math.nan
        lines = drawn(edges.draw_curves, taken(EDGE_RATIOS, features)).axes[0].get_lines()
        assert ["layer 2", "massive: above 1\u2009000"] == [line.get_label() for line in lines]
        features[2][0][0, 0] = math.nan
        with pytest.raises(Undrawable, match="no ratio that is a number above 0"):
            drawn(edges.draw_curves, taken(EDGE_RATIOS, features))


class TestHistograms:
    def test_each_layer_has_a_panel_with_its_histogram_and_its_fit(self) -> None:
        reading = taken(EDGE_DISTRIBUTION, massive())
        panels = drawn(edges.draw_histograms, reading).axes
        assert 3 == len(panels)
        for layer, axes in enumerate(panels, start=1):
            rows = [record for record in reading.records if layer == record["layer"]]
            (stairs,) = axes.patches
            values, bounds, _ = stairs.get_data()
            assert [row["density"] for row in rows] == list(values)
            assert [row["left"] for row in rows] + [rows[-1]["right"]] == list(bounds)
            fit, bound = axes.get_lines()
            parameters = [reading[name].at(layer=layer) for name in ("shape", "loc", "scale")]
            expected = stats.gamma.pdf(fit.get_xdata(), *parameters)
            assert pytest.approx(np.where(expected > 0, expected, np.nan), nan_ok=True) == fit.get_ydata()
            assert ([-3.0, -3.0], canvas.RED) == (list(bound.get_xdata()), bound.get_color())
            ks = reading["ks"].at(layer=layer)
            assert f"layer {layer}: KS {ks:.3g}" == axes.get_title(loc="left")

    def test_the_density_is_scipy_s(self) -> None:
        for value in (-2.6, -2.5, -2.4, 0.0, 7.5):
            expected = stats.gamma.pdf(value, 6.0, -2.5, 0.4)
            assert pytest.approx(expected) == edges.gamma_density(value, 6.0, -2.5, 0.4)
        assert pytest.approx(stats.gamma.pdf(3.0, 4000.0, -60.0, 0.015)) == edges.gamma_density(3.0, 4e3, -60.0, 0.015)

    def test_the_bound_stands_where_the_probe_has_it(self) -> None:
        axes = drawn(edges.draw_histograms, taken(EDGE_DISTRIBUTION, massive(), over=100)).axes[0]
        assert pytest.approx([-2.0, -2.0]) == list(axes.get_lines()[-1].get_xdata())

    def test_the_title_names_the_layer_farthest_from_a_gamma_distribution(self) -> None:
        reading = taken(EDGE_DISTRIBUTION, massive())
        worst = int(np.argmax(reading["ks"].values)) + 1
        told = texts(drawn(edges.draw_histograms, reading))
        assert f"distribution of the ratios of edges; farthest from a gamma distribution in layer {worst}" in told

    def test_many_layers_stand_in_rows_of_four(self) -> None:
        figure = drawn(edges.draw_histograms, taken(EDGE_DISTRIBUTION, graphs(40, layers=6)))
        assert 6 == len(figure.axes)
        heights = {round(axes.get_position().y0, 3) for axes in figure.axes}
        assert 2 == len(heights)

    def test_a_layer_without_a_fit_says_so_and_an_unknown_one_has_no_panel(self) -> None:
        features = graphs(40, layers=3)
        features[1][0][:] = 2.0
        features[2][0][0, 0] = math.inf
        figure = drawn(edges.draw_histograms, taken(EDGE_DISTRIBUTION, features))
        titles = [axes.get_title(loc="left") for axes in figure.axes]
        assert ["layer 1: no fit", "layer 3"] == [title.split(": KS")[0] for title in titles]
        assert "layer 1 has no fit: all of its ratios are the same" in texts(figure)
        features[3] = features[2]
        features[1] = features[2]
        with pytest.raises(Undrawable, match="no layer has a histogram"):
            drawn(edges.draw_histograms, taken(EDGE_DISTRIBUTION, features))


def test_both_are_hung_under_their_names(tmp_path: Path) -> None:
    verdicts = [
        Verdict(
            case=f"p.probe.yaml::{probe}[{SMOLLM2}]",
            probe=probe,
            suite="s",
            checkpoint=SMOLLM2,
            status=Status.PASSED,
            reading=taken(recipe, massive()),
        )
        for probe, recipe in (("massive", EDGE_RATIOS), ("gamma", EDGE_DISTRIBUTION))
    ]
    hanging = gallery.hang(report(*verdicts), tmp_path)
    assert ((), False) == (hanging.lacking, hanging.failed)
    assert [f"{tmp_path}/{SMOLLM2}/{stem}.png" for stem in ("massive-ratios", "gamma-distribution")] == [
        link.path for link in hanging.links
    ]
    assert all(path.stat().st_size > 5000 for path in tmp_path.rglob("*.*"))


def test_what_was_there_before_training_is_a_band_over_all_layers() -> None:
    after, before = taken(EDGE_RATIOS, massive()), taken(EDGE_RATIOS, massive(1.0))
    figure = drawn(lambda use: edges.draw_curves(use, before=before), after)
    (band,) = figure.axes[0].collections
    ratios = [float(row["ratio"]) for row in before.records]  # type: ignore[arg-type]
    low, high = band.get_paths()[0].get_extents().intervaly
    assert (min(ratios), max(ratios)) == (pytest.approx(low), pytest.approx(high))
    assert "before training" in " ".join(text.get_text() for text in figure.axes[0].get_legend().get_texts())
    assert not drawn(edges.draw_curves, after).axes[0].collections


def test_the_band_is_that_of_the_same_measurement_on_the_same_checkpoint_with_untrained_weights() -> None:
    plain, other = taken(EDGE_RATIOS, massive()), taken(EDGE_RATIOS, massive(1.0))

    def edited(edit: str, measured: str = EDGE_RATIOS.name) -> ReadingUse:
        circumstances = replace(INPUTS, bos="", measure=measured, edit=edit)
        return ReadingUse(checkpoint=SMOLLM2, reading=replace(other, circumstances=circumstances), probes=("q",))

    use = ReadingUse(checkpoint=SMOLLM2, reading=plain, probes=("p",))
    wanted = edited("untrained at everywhere")
    assert wanted.reading is gallery._before_training(use, [edited("noise at embeddings"), use, wanted])
    assert gallery._before_training(use, [use, edited("noise at embeddings")]) is None
    assert gallery._before_training(use, [edited("untrained at everywhere", "edge.ratios per=layer")]) is None
    assert gallery._before_training(use, [replace(wanted, checkpoint="another")]) is None
