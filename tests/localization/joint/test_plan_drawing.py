"""The plan's picture: what is drawn is what the plan says, and both kinds of file hold it."""

import io
import xml.etree.ElementTree as ElementTree

import numpy
import pytest
from PIL import Image

from surgery.errors import UsageError
from surgery.localization.joint.planned import FrontierPoint, Plan
from surgery.localization.joint.plots import draw_plan, plan_figure

LAYERS = [
    f"{place}.transformer_blocks.0.attn2.to_v"
    for place in ("down_blocks.0.attentions.1", "mid_block.attentions.0", "up_blocks.1.attentions.2")
]
NEEDED = {(LAYERS[0], 3): 1, (LAYERS[0], 7): 4, (LAYERS[1], 31): 2, (LAYERS[2], 5): 1}
FRONTIER = tuple(FrontierPoint(*one) for one in ((0, 0, 0.0), (1, 2, 0.01), (3, 3, 0.015), (6, 5, 0.04)))


def planned(frontier=FRONTIER, needed=NEEDED, change=0.03):
    return Plan(FrontierPoint(4, 4, change), frontier, needed, 5, ("a caption",), True)


def test_frontier_and_map_show_the_plan_s_numbers():
    figure = plan_figure(planned())
    frontier, neuron_map, *others = figure.axes
    assert len(others) == 2  # the change beside the prompts, the color bar beside the map
    broken = next(line for line in frontier.lines if len(line.get_xdata()) == 4)
    assert broken.get_xydata().tolist() == [[0, 0], [1, 2], [3, 3], [6, 5]]
    chosen = next(line for line in frontier.lines if line.get_marker() == "*")
    assert chosen.get_xydata().tolist() == [[4, 4]]
    change = next(one for one in others if "change" in one.get_ylabel())
    estimated, measured = change.lines
    assert estimated.get_ydata().tolist() == [0.0, 0.01, 0.015, 0.04]
    assert measured.get_xydata().tolist() == [[4, 0.03]]
    (points,) = neuron_map.collections
    assert points.get_offsets().tolist() == [[3, 0], [7, 0], [31, 1], [5, 2]]
    assert points.get_array().tolist() == [1, 4, 2, 1]
    assert [label.get_text() for label in neuron_map.get_yticklabels()] == [
        "down 0.1.0",
        "mid 0.0",
        "up 1.2.0",
    ]


def test_without_changes_and_neurons_there_is_no_second_scale():
    figure = plan_figure(planned(tuple(FrontierPoint(n, n, None) for n in range(3)), {}, None))
    assert len(figure.axes) == 2
    assert not figure.axes[1].collections


def test_a_png_is_a_picture_and_an_svg_holds_every_point(tmp_path):
    draw_plan(planned(), tmp_path / "plan.png")
    pixels = numpy.asarray(Image.open(io.BytesIO((tmp_path / "plan.png").read_bytes())).convert("RGB"))
    assert pixels.shape == (480, 1440, 3)  # 12 x 4 inches at 120 dots
    for color in ((178, 24, 43), (33, 102, 172)):  # both curves
        assert (abs(pixels.astype(int) - color).max(axis=2) < 8).sum() > 50
    draw_plan(planned(), tmp_path / "plan.svg")
    root = ElementTree.fromstring((tmp_path / "plan.svg").read_text())
    space = "{http://www.w3.org/2000/svg}"
    groups = {one.get("id"): one for one in root.iter(f"{space}g") if one.get("id")}
    assert {f"axes_{number}" for number in (1, 2, 3, 4)} <= set(groups)
    marks = groups["PathCollection_1"]
    assert len(list(marks.iter(f"{space}path"))) == len(NEEDED)
    draw_plan(planned(), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "plan.svg").read_bytes()


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"ends in '.pdf'"):
        draw_plan(planned(), tmp_path / "plan.pdf")
    assert not list(tmp_path.iterdir())
