"""Pictures are drawn from plain data; what is on them is asked of the figure's artists, never of pixels."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_reports import INPUTS, MINILM_EXISTS, MINILM_READING, ONE, SMOLLM2, SMOLLM2_READING, perplexity, report

from maprobe.errors import ReportError
from maprobe.readings import Axis, Place, Quantity, Reading
from maprobe.reporting.markdown import render
from maprobe.reporting.plots import biases, canvas, gallery, heads, layers, maps, relief
from maprobe.reporting.plots.canvas import Undrawable, require_matplotlib, sheet, styled, titled
from maprobe.reporting.plots.captions import visible
from maprobe.reporting.report import PropertyReport, ReadingUse
from maprobe.verdicts import Status, Verdict

NAN = math.nan
NOTHING = "nothing massive here: in layers 1..4 no entry exceeds 44 x its median"


def use(reading: Reading, *probes: str) -> ReadingUse:
    return ReadingUse(checkpoint=SMOLLM2, reading=plain(reading), probes=probes or ("probe",))


def plain(reading: Reading) -> Reading:
    """The reading as it comes out of a report's JSON, where nan is a text."""
    return Reading.from_dict(reading.to_dict())


def drawn(draw: Callable[[ReadingUse], Any], reading: Reading, *probes: str) -> Any:
    with styled():
        figure = draw(use(reading, *probes))
        figure.canvas.draw()
    return figure


def texts(figure: Any) -> str:
    """All that is written above the figure, on one line."""
    return " ".join(" ".join(text.get_text().split()) for text in figure.texts)


def scalar(name: str, value: float, *places: Place) -> Quantity:
    return Quantity(name=name, values=(value,), places=places)


def reading(kind: str, *quantities: Quantity, records: list[dict[str, Any]] | None = None, **more: Any) -> Reading:
    return Reading(
        kind=kind,
        quantities={quantity.name: quantity for quantity in quantities},
        records=tuple(records or ()),
        circumstances=replace(INPUTS, measure=f"{kind} block.out all"),
        **more,
    )


def layerwise(
    *, massive: tuple[float, ...] = (0, 0.25, 1, 0.5), top: tuple[float, ...] = (3, 5, 5000, 4000)
) -> Reading:
    def by_layer(name: str, *values: float) -> Quantity:
        return Quantity(name=name, values=values, axes=(Axis("layer", (1, 2, 3, 4)),))

    return reading(
        "layerwise",
        by_layer("top1", *top),
        by_layer("top2", 2, 4, 900, 800),
        by_layer("top3", 1, 3, 300, 200),
        by_layer("median", 0.5, 0.05, 1, 2),
        by_layer("massive", *massive),
    )


def lines(figure: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in figure.axes[0].get_lines()
        if not line.get_label().startswith("emergence")
    }


def spans(figure: Any) -> list[tuple[float, float]]:
    """The shaded stretches of layers."""
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in figure.axes[0].patches]


class TestLayers:
    def test_the_lines_are_the_numbers_of_the_reading_on_a_log_axis(self) -> None:
        figure = drawn(layers.draw, layerwise())
        found = lines(figure)
        assert ([1, 2, 3, 4], [3, 5, 5000, 4000]) == found["largest |x|"]
        assert [2, 4, 900, 800] == found["second largest"][1]
        assert [1, 3, 300, 200] == found["third largest"][1]
        assert [0.5, 0.05, 1, 2] == found["median of |h|"][1]
        assert [500, 100, 1000, 2000] == next(y for name, (_, y) in found.items() if name.startswith("strict"))
        assert "log" == figure.axes[0].get_yscale()

    def test_massive_layers_are_shaded_and_the_first_is_marked(self) -> None:
        figure = drawn(layers.draw, layerwise())
        assert [(2.5, 4.5)] == spans(figure)
        (mark,) = (line for line in figure.axes[0].get_lines() if line.get_label().startswith("emergence"))
        assert (3, "emergence: layer 3") == (mark.get_xdata()[0], mark.get_label())
        assert "smollm2-135m: magnitudes by layer; massive activations emerge in layer 3" in texts(figure)

    def test_each_run_of_massive_layers_is_shaded_by_itself(self) -> None:
        assert [(0.5, 1.5), (2.5, 4.5)] == spans(drawn(layers.draw, layerwise(massive=(1, 0, 1, 1))))

    def test_without_a_massive_layer_the_picture_says_so(self) -> None:
        figure = drawn(layers.draw, layerwise(massive=(0, 0, 0, 0.25)))
        assert [] == spans(figure)
        assert "nothing massive in layers 1..4" in texts(figure)
        assert "nothing massive in layers 1..6" in texts(drawn(layers.draw, MINILM_READING))

    def test_magnitudes_are_drawn_with_as_many_ranks_as_were_recorded(self) -> None:
        figure = drawn(layers.draw, SMOLLM2_READING)
        assert list(SMOLLM2_READING["top"].values) == lines(figure)["largest |x|"][1]
        assert "second largest" not in lines(figure)
        assert [(11.5, 28.5)] == spans(figure)
        second = [{**row, "rank": 2, "value": -7.0} for row in SMOLLM2_READING.records[1:]]
        more = drawn(layers.draw, replace(SMOLLM2_READING, records=(*SMOLLM2_READING.records, *second)))
        assert [7.0] * 28 == lines(more)["second largest"][1][1:]
        assert math.isnan(lines(more)["second largest"][1][0])

    def test_what_is_not_a_number_or_not_above_0_is_a_gap(self) -> None:
        found = lines(drawn(layers.draw, layerwise(top=(NAN, 0.0, 5000, math.inf))))["largest |x|"][1]
        assert [True, True, False, True] == [math.isnan(value) for value in found]

    def test_ticks_are_plain_numbers_and_the_axes_are_named(self) -> None:
        (axes,) = drawn(layers.draw, layerwise()).axes
        ticks = [text.get_text() for text in axes.get_yticklabels()]
        assert {"1", "100", "10\u2009000"} <= set(ticks)
        assert ("layer (number of the block)", "magnitude |x|, log scale") == (axes.get_xlabel(), axes.get_ylabel())
        assert all(float(text.get_text()).is_integer() for text in axes.get_xticklabels())

    def test_the_probes_the_inputs_and_the_edit_are_told(self) -> None:
        edited = replace(layerwise(), circumstances=replace(INPUTS, measure="m", edit="massive = zero"))
        told = texts(drawn(layers.draw, edited, "exists", "persist"))
        assert "m (probe: exists, persist)" in told
        assert "4 x 512 tokens of python-docs; BOS auto: none added; float32" in told
        assert "edited: massive = zero" in told

    @pytest.mark.parametrize(
        ("unfit", "sentence"),
        [
            (layerwise(top=(NAN, NAN, NAN, NAN)), "no layer has a magnitude that is a number"),
            (layerwise(top=(NAN, NAN, 2.0, NAN)), "layer 3 alone has a magnitude that is a number"),
            (reading("layerwise", absent="no token"), "no token"),
            (reading("magnitude", absent="no token of the inputs is of class bos"), "no token of the inputs"),
        ],
    )
    def test_without_two_numbers_there_is_a_sentence_and_no_picture(self, unfit: Reading, sentence: str) -> None:
        with pytest.raises(Undrawable, match=sentence):
            drawn(layers.draw, unfit)


TOKENS = ["Summer", " is", "\n", "$x$", "."]


def landscape(*, massive: bool = True, tokens: list[str] = TOKENS, first: Any = 4000.0) -> Reading:
    """Dims 0..9 in two bins, dim 7 apart."""
    records = [
        {
            "layer": 2,
            "position": position,
            "token": token,
            "dim": dim,
            "last_dim": last,
            "magnitude": first if (position, dim) == (0, 7) else float(position + dim),
            "massive": massive and (position, dim) == (0, 7),
        }
        for position, token in enumerate(tokens)
        for dim, last in ((0, 4), (5, 9), (7, 7))
    ]
    place = Place(sequence=0, position=0, token=tokens[0], dim=7)
    quantities = [scalar("layer", 2), scalar("top", 4000.0, place), scalar("ratio", 2000.0)]
    return reading("landscape", *quantities, records=records)


class TestRelief:
    def test_each_token_has_a_line_through_its_magnitudes(self) -> None:
        (axes,) = drawn(relief.draw, landscape()).axes
        found = {line.get_label(): line.get_data_3d() for line in axes.get_lines()}
        assert TOKENS == list(reversed(found))
        dims, position, heights = found["Summer"]
        assert ([2.0, 7.0, 7.0], [0, 0, 0]) == (list(dims), list(position))
        assert [0.0, 5.0, 4000.0] == list(heights)
        assert [1.0, 6.0, 8.0] == list(found[" is"][2])

    def test_tokens_stand_on_their_axis_with_every_character_to_be_seen(self) -> None:
        (axes,) = drawn(relief.draw, landscape()).axes
        labels = axes.get_yticklabels()
        assert ["Summer", "\u2423is", "\\n", "$x$", "\u2018.\u2019"] == [text.get_text() for text in labels]
        assert [canvas.RED, *["black"] * 4] == [text.get_color() for text in labels]

    def test_the_massive_dim_has_a_tick_and_the_peak_its_numbers(self) -> None:
        figure = drawn(relief.draw, landscape())
        (axes,) = figure.axes
        assert [0, 7, 9] == list(axes.get_xticks())
        (told,) = (text.get_text() for text in axes.texts)
        assert "4\u2009000 = 2\u2009000 \u00d7 median at dim 7" == " ".join(re.split("[ \n]+", told.strip(" ")))
        assert "magnitudes of the hidden state of layer 2" in texts(figure)
        assert "nothing massive" not in texts(figure)

    def test_where_nothing_is_massive_the_picture_says_so(self) -> None:
        figure = drawn(relief.draw, landscape(massive=False))
        assert "smollm2-135m: magnitudes of the hidden state of layer 2; nothing massive" in texts(figure)
        assert {canvas.BLUE} == {line.get_color() for line in figure.axes[0].get_lines()}

    def test_of_many_tokens_as_many_are_named_as_there_is_room_for(self) -> None:
        tokens = [f"t{number}" for number in range(32)]
        (axes,) = drawn(relief.draw, landscape(tokens=tokens)).axes
        assert 32 == len(axes.get_lines())
        named = [text.get_text() for text in axes.get_yticklabels()]
        assert ("t0", True) == (named[0], 6 <= len(named) <= 9)
        assert named == [tokens[int(place)] for place in axes.get_yticks()]

    def test_an_unknown_height_is_a_gap_and_nothing_but_these_is_no_picture(self) -> None:
        (axes,) = drawn(relief.draw, landscape(first=NAN)).axes
        assert math.isnan(axes.get_lines()[-1].get_data_3d()[2][2])
        unknown = landscape()
        rows = tuple({**row, "magnitude": NAN} for row in unknown.records)
        with pytest.raises(Undrawable, match="no magnitude that is a number"):
            drawn(relief.draw, replace(unknown, records=rows))
        with pytest.raises(Undrawable, match="no such layer"):
            drawn(relief.draw, reading("landscape", absent="no such layer"))


def attention(*, massive: bool = True, layers: tuple[int, ...] = (2, 3), logit: float | None = None) -> Reading:
    records = [
        {
            "layer": layer,
            "query": query,
            "query_token": TOKENS[query],
            "key": key,
            "key_token": TOKENS[key],
            "logit": layer - 3.0 * key if logit is None else logit,
            "probability": 1 / (query + 1),
            "massive": massive and key == 0,
        }
        for layer in layers
        for query in range(3)
        for key in range(query + 1)
    ]
    if massive:
        axes = (Axis("layer", layers),)
        numbers = [Quantity(name="massive_logit", values=(1.0,) * len(layers), axes=axes), scalar("emergence_layer", 2)]
    else:
        numbers = [Quantity(name=name, absent=NOTHING) for name in ("massive_logit", "emergence_layer")]
    return reading("attention.map", *numbers, records=records)


class TestMaps:
    def test_logits_stand_above_probabilities_with_a_column_for_each_layer(self) -> None:
        panels = drawn(maps.draw, attention()).axes[:4]
        cells = [axes.images[0].get_array().filled(NAN).tolist() for axes in panels]
        for column, layer in enumerate((2, 3)):
            assert [
                [pytest.approx(layer - 3.0 * key if key <= query else NAN, nan_ok=True) for key in range(3)]
                for query in range(3)
            ] == cells[column]
            assert [
                [pytest.approx(1 / (query + 1) if key <= query else NAN, nan_ok=True) for key in range(3)]
                for query in range(3)
            ] == cells[2 + column]
        titles = [axes.get_title(loc="left") for axes in panels[:2]]
        assert ["layer 2\nreads layer 1, before emergence", "layer 3\nreads layer 2, from emergence on"] == titles

    def test_all_layers_share_their_colours_and_those_of_logits_have_0_in_the_middle(self) -> None:
        limits = [axes.images[0].get_clim() for axes in drawn(maps.draw, attention()).axes[:4]]
        assert [(-4.0, 4.0), (-4.0, 4.0), (0.0, 1.0), (0.0, 1.0)] == limits

    def test_tokens_stand_on_both_axes_and_massive_ones_are_red(self) -> None:
        figure = drawn(maps.draw, attention())
        lower_left = figure.axes[2]
        for labels in (lower_left.get_xticklabels(), lower_left.get_yticklabels()):
            assert ["Summer", "\u2423is", "\\n"] == [text.get_text() for text in labels]
            assert [canvas.RED, "black", "black"] == [text.get_color() for text in labels]
        assert ("key token", "query token") == (lower_left.get_xlabel(), lower_left.get_ylabel())
        assert "red: tokens with a massive activation; grey: masked; logits are" in texts(figure)

    def test_where_nothing_is_massive_the_picture_says_so(self) -> None:
        figure = drawn(maps.draw, attention(massive=False))
        assert "attention in layers 2 and 3; nothing massive" in texts(figure)
        assert "red" not in texts(figure)
        assert "layer 2\nnothing massive to attend to" == figure.axes[0].get_title(loc="left")

    def test_one_layer_is_one_column(self) -> None:
        figure = drawn(maps.draw, attention(layers=(3,)))
        assert "attention in layer 3" in texts(figure)
        assert 2 == sum(bool(axes.images) for axes in figure.axes)

    def test_without_a_number_there_is_a_sentence_and_no_picture(self) -> None:
        with pytest.raises(Undrawable, match="no pair of tokens has a logit that is a number"):
            drawn(maps.draw, attention(logit=NAN))
        with pytest.raises(Undrawable, match="gone"):
            drawn(maps.draw, reading("attention.map", absent="gone"))


def constancy(*rows: tuple[str, int, float, float]) -> Reading:
    records = [
        {"column": name, "layer": 2, "dim": dim, "mean": mean, "std": std, "cv": 0.0} for name, dim, mean, std in rows
    ]
    place = Place(sequence=0, position=0, token="Summer", dim=7)
    quantities = [scalar("value_mean", rows[0][2], place), scalar("layer", 2), scalar("sequences", 100)]
    return reading("constancy", *quantities, records=records)


FOUR = (
    ("massive 1", 7, -4000.0, 40.0),
    ("massive 2", 9, 900.0, 9.0),
    ("top 1 %", 3, 20.0, 10.0),
    ("median", 1, 0.5, 1.0),
)


class TestBiases:
    def test_each_dim_has_its_mean_with_an_error_bar_and_its_variation(self) -> None:
        left, right = drawn(biases.draw, constancy(*FOUR)).axes
        means = [container.lines[0].get_xdata()[0] for container in left.containers]
        bars = [container.lines[2][0].get_segments()[0][:, 0].tolist() for container in left.containers]
        assert [-4000.0, 900.0, 20.0, 0.5] == means
        assert [[-4040.0, -3960.0], [891.0, 909.0], [10.0, 30.0], [-0.5, 1.5]] == bars
        points = {line.get_ydata()[0]: line.get_xdata()[0] for line in right.get_lines()}
        assert {0: 0.01, 1: 0.01, 2: 0.5, 3: 2.0} == points
        assert ("symlog", "log") == (left.get_xscale(), right.get_xscale())

    def test_dims_are_named_and_massive_ones_are_red(self) -> None:
        figure = drawn(biases.draw, constancy(*FOUR))
        left, _ = figure.axes
        assert [
            "massive 1, dim 7",
            "massive 2, dim 9",
            "ordinary (top 1 %), dim 3",
            "ordinary (median), dim 1",
        ] == [text.get_text() for text in left.get_yticklabels()]
        colours = [container.lines[0].get_color() for container in left.containers]
        assert [canvas.RED, canvas.RED, canvas.BLUE, canvas.BLUE] == colours
        assert "massive and ordinary values in layer 2" in texts(figure)
        assert "100 sequences, read at token 0 of each sequence (in the first: Summer)" in texts(figure)

    def test_all_values_lie_within_the_axis_and_its_ticks_are_few(self) -> None:
        left, _ = drawn(biases.draw, constancy(*FOUR)).axes
        low, high = left.get_xlim()
        assert low <= -4040 < 909 <= high
        assert 0.0 in left.get_xticks()
        assert len(left.get_xticks()) <= 8

    def test_one_sign_alone_needs_no_ticks_on_the_other_side(self) -> None:
        left, _ = drawn(biases.draw, constancy(("massive 1", 7, 4000.0, 40.0), ("median", 1, 5.0, 1.0))).axes
        assert 0.0 == min(left.get_xticks())

    def test_a_value_that_never_varies_is_called_constant(self) -> None:
        _, right = drawn(biases.draw, constancy(("massive 1", 7, 4000.0, 0.0), ("median", 1, 0.0, 1.0))).axes
        assert ["constant", "mean 0"] == [text.get_text() for text in right.texts]

    def test_unknown_rows_are_left_out_and_without_a_massive_one_there_is_no_picture(self) -> None:
        left, _ = drawn(biases.draw, constancy(*FOUR[:3], ("median", 1, NAN, 1.0))).axes
        assert 3 == len(left.get_yticklabels())
        with pytest.raises(Undrawable, match="no mean and deviation that are numbers"):
            drawn(biases.draw, constancy(("massive 1", 7, NAN, 1.0), FOUR[3]))
        with pytest.raises(Undrawable, match="nothing massive here"):
            drawn(biases.draw, reading("constancy", absent=NOTHING))


def sinks(*values: float, absent: str | None = None) -> Reading:
    axes = (Axis("layer", (3, 4, 5)), Axis("head", (0, 1)))
    share = Quantity(name="share", absent=absent) if absent else Quantity(name="share", values=values, axes=axes)
    importance = Quantity(name="importance", absent=absent) if absent else replace(share, name="importance")
    return reading("attention.sink", importance, share, scalar("sinks", 0.5), notes=("a head sinks where",))


class TestHeads:
    def test_rows_are_layers_and_columns_are_heads(self) -> None:
        figure = drawn(heads.draw, sinks(0.0, 0.1, 0.2, 0.3, 0.4, NAN))
        for axes in figure.axes[:2]:
            (image,) = axes.images
            cells = image.get_array().filled(NAN).tolist()
            assert [[0.0, 0.1], [0.2, 0.3], [0.4, pytest.approx(NAN, nan_ok=True)]] == cells
            assert ([-0.5, 1.5, 2.5, 5.5], (0, 1), "lower") == (image.get_extent(), image.get_clim(), image.origin)
        assert ("layer", "head") == (figure.axes[0].get_ylabel(), figure.axes[0].get_xlabel())
        assert "attention by layer and head; the sink metric is 0.5" in texts(figure)
        assert "a head sinks where" in texts(figure)

    def test_concentration_has_one_panel(self) -> None:
        axes = (Axis("layer", (1,)), Axis("head", (0, 1)))
        share = Quantity(name="share", values=(0.2, 0.3), axes=axes)
        figure = drawn(heads.draw, reading("attention.concentration", share))
        assert 1 == sum(bool(axes.images) for axes in figure.axes)
        assert "sink metric" not in texts(figure)

    def test_without_an_axis_of_heads_the_reason_is_told(self) -> None:
        with pytest.raises(Undrawable, match="differ in their number of heads"):
            drawn(heads.draw, sinks(absent="the layers differ in their number of heads"))
        with pytest.raises(Undrawable, match="no layer and head has a number"):
            drawn(heads.draw, sinks(*[NAN] * 6))


class TestWords:
    @pytest.mark.parametrize(
        ("token", "shown"),
        [
            ("warm", "warm"),
            (" warm", "\u2423warm"),
            ("a  ", "a\u2423\u2423"),
            ("  ", "\u2423\u2423"),
            ("", ""),
            ("\n", "\\n"),
            ("\n\n", "\\n\\n"),
            ("\t", "\\t"),
            (".", "\u2018.\u2019"),
            (" ,", "\u2018\u2423,\u2019"),
            ("7", "7"),
            ("$\\alpha_2$", "$\\alpha_2$"),
            ("\u4e2d", "\\u4e2d"),
            ("\x1b[31m", "\\x1b[31m"),
            ("\ud83d", "\\ud83d"),
            ("caf\u00e9", "caf\u00e9"),
            ("abcdefghijklmnop", "abcdefghijklm\u2026"),
        ],
    )
    def test_every_character_of_a_token_can_be_seen(self, token: str, shown: str) -> None:
        assert shown == visible(token)

    def test_dollar_signs_are_no_formula(self) -> None:
        with styled():
            figure = sheet(3, 2)
            titled(figure, "$x$ and $y", ["probe $\\frac"])
            figure.canvas.draw()
        assert ["probe $\\frac", "$x$ and $y"] == [text.get_text() for text in figure.texts]
        assert [False, False] == [text.get_parse_math() for text in figure.texts]

    def test_long_titles_are_broken_to_the_width(self) -> None:
        with styled():
            figure = sheet(4, 2)
            titled(figure, "word " * 20, ["word " * 40])
        assert all("\n" in text.get_text() for text in figure.texts)


def verdict(probe: str, found: Reading, checkpoint: str = SMOLLM2) -> Verdict:
    case = f"p.probe.yaml::{probe}[{checkpoint}]"
    return Verdict(case=case, probe=probe, suite="s", checkpoint=checkpoint, status=Status.PASSED, reading=found)


class TestGallery:
    def test_every_picture_is_written_twice_under_its_checkpoint_and_probe(self, tmp_path: Path) -> None:
        whole = report(
            verdict("shape", layerwise()),
            verdict("landscape", landscape()),
            verdict("attention-map", attention()),
            verdict("bias", constancy(*FOUR)),
            verdict("sink", sinks(*[0.5] * 6)),
            perplexity(),
            MINILM_EXISTS,
        )
        hanging = gallery.hang(whole, tmp_path / "new" / "pictures")
        stems = ["shape-layerwise", "landscape", "attention-map", "bias-constancy", "sink-heads"]
        names = [f"{SMOLLM2}/{stem}" for stem in stems] + ["all-MiniLM-L6-v2/exists-layerwise"]
        assert [f"{tmp_path}/new/pictures/{name}.png" for name in names] == [link.path for link in hanging.links]
        assert ((), False) == (hanging.lacking, hanging.failed)
        written = sorted(str(path.relative_to(tmp_path / "new/pictures")) for path in tmp_path.rglob("*.*"))
        assert sorted(name + suffix for name in names for suffix in (".png", ".svg")) == written
        assert all(path.stat().st_size > 5000 for path in tmp_path.rglob("*.*"))

    def test_the_same_numbers_give_the_same_bytes(self, tmp_path: Path) -> None:
        for folder in ("a", "b"):
            gallery.hang(report(verdict("shape", layerwise()), verdict("l", landscape())), tmp_path / folder)
        for path in (tmp_path / "a").rglob("*.*"):
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path.name
        assert "date" not in (tmp_path / "a" / SMOLLM2 / "shape-layerwise.svg").read_text().lower()

    def test_a_reading_without_a_picture_has_a_sentence_and_hinders_no_other(self, tmp_path: Path) -> None:
        absent = reading("constancy", absent=NOTHING)
        hanging = gallery.hang(report(verdict("bias", absent), verdict("shape", layerwise())), tmp_path)
        assert (f"no picture of bias on {SMOLLM2}: {NOTHING}",) == hanging.lacking
        assert (1, False) == (len(hanging.links), hanging.failed)

    def test_what_goes_wrong_in_drawing_is_told_and_hinders_no_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(use: ReadingUse) -> Any:
            raise ZeroDivisionError("by zero")

        monkeypatch.setitem(gallery._KINDS, "constancy", ("constancy", broken))
        hanging = gallery.hang(report(verdict("bias", constancy(*FOUR)), verdict("shape", layerwise())), tmp_path)
        assert (f"picture of bias on {SMOLLM2} NOT written: ZeroDivisionError: by zero",) == hanging.lacking
        assert (1, True) == (len(hanging.links), hanging.failed)

    def test_names_that_would_be_the_same_file_are_numbered_and_unsafe_ones_are_made_safe(self) -> None:
        several = report(
            verdict("a", layerwise()),
            verdict("A", layerwise(massive=(0, 0, 0, 0))),
            verdict("b", landscape(), checkpoint="../x/y z"),
        )
        stems = [picture.stem for picture in gallery.pictures(several)]
        assert [f"{SMOLLM2}/a-layerwise", f"{SMOLLM2}/A-layerwise-2", "-x-y-z/b-landscape"] == stems

    def test_a_reading_that_several_probes_share_is_drawn_once(self) -> None:
        (picture,) = gallery.pictures(report(verdict("a", layerwise()), verdict("b", layerwise())))
        assert ("a", "b") == picture.use.probes

    def test_the_user_s_own_settings_of_matplotlib_neither_count_nor_change(self, tmp_path: Path) -> None:
        import matplotlib

        with matplotlib.rc_context({"font.size": 33, "figure.facecolor": "black"}):
            gallery.hang(report(verdict("shape", layerwise())), tmp_path / "a")
            assert (33, "black") == (matplotlib.rcParams["font.size"], matplotlib.rcParams["figure.facecolor"])
        gallery.hang(report(verdict("shape", layerwise())), tmp_path / "b")
        name = f"{SMOLLM2}/shape-layerwise.png"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    def test_no_window_system_is_asked_for(self, tmp_path: Path) -> None:
        gallery.hang(report(verdict("shape", layerwise())), tmp_path)
        assert "matplotlib.pyplot" not in sys.modules


class TestFolder:
    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
            with pytest.raises(ReportError, match=f"pictures cannot be written to {folder}: .*/file is no folder"):
                gallery.check_folder(folder)

    def test_one_that_may_not_be_written_to_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        gallery.check_folder(tmp_path / "new")
        # The tests may run as root, for whom every folder is open: so the system's answer is given here.
        monkeypatch.setattr("maprobe.reporting.plots.gallery.os.access", lambda path, mode: False)
        with pytest.raises(ReportError, match=f"the folder {tmp_path} may not be written to; change its permissions"):
            gallery.check_folder(tmp_path / "new")

    def test_without_matplotlib_the_extra_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        require_matplotlib()
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
        with pytest.raises(ReportError, match=r"install it with `pip install 'maprobe\[plots\]'`"):
            gallery.check_folder(tmp_path)


class TestLinks:
    def linked(self, tmp_path: Path) -> PropertyReport:
        whole = report(verdict("shape", layerwise()), MINILM_EXISTS)
        return replace(whole, pictures=gallery.hang(whole, tmp_path / "pics").links)

    def test_a_report_carries_them_through_its_plain_data(self, tmp_path: Path) -> None:
        whole = self.linked(tmp_path)
        data = whole.to_dict()
        assert whole == PropertyReport.from_dict(data)
        assert {
            "checkpoint": SMOLLM2,
            "reading": 0,
            "title": "smollm2-135m: shape, layerwise",
            "path": f"{tmp_path}/pics/smollm2-135m/shape-layerwise.png",
        } == data["pictures"][0]
        assert () == PropertyReport.from_dict({k: v for k, v in data.items() if k != "pictures"}).pictures

    def test_paths_are_seen_from_where_the_report_lies(self, tmp_path: Path) -> None:
        seen = self.linked(tmp_path).relinked(Path(), tmp_path / "reports")
        assert "../pics/smollm2-135m/shape-layerwise.png" == seen.pictures[0].path
        again = seen.relinked(tmp_path / "reports", tmp_path)
        assert "pics/smollm2-135m/shape-layerwise.png" == again.pictures[0].path

    def test_markdown_shows_each_beside_its_reading_and_nothing_without(self, tmp_path: Path) -> None:
        text = render(self.linked(tmp_path).relinked(Path(), tmp_path / "a b").to_dict())
        image = "![smollm2-135m: shape, layerwise](../pics/smollm2-135m/shape-layerwise.png)"
        section = next(part for part in text.split("\n### ") if part.startswith("smollm2-135m: layerwise"))
        assert section.index(image) < section.index("layer |")
        assert 2 == text.count("![")
        assert "![" not in render(ONE.to_dict())

    def test_the_part_of_one_checkpoint_keeps_its_own(self, tmp_path: Path) -> None:
        (picture,) = self.linked(tmp_path).of(SMOLLM2).pictures
        assert SMOLLM2 == picture.checkpoint
