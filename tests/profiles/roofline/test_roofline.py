"""Times: what makes a kernel slower never makes it faster, and everything is labelled."""

from __future__ import annotations

import dataclasses
import json

import pytest
from helpers import conv_net, parse
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.model import Model
from graphopt.profiles import DeviceProfile, load_device
from graphopt.profiles.roofline import LABEL, Rates, estimate, pad
from graphopt.profiles.roofline.anchors import fit

T4 = load_device("t4")


def convolution(cin: int, cout: int, size: int = 16, batch: int = 1, kernel: int = 3) -> Model:
    """One convolution between two others, so that it is not the first."""
    p = kernel // 2
    return parse(f"""g (float[{batch},8,{size},{size}] x, float[{cin},8,1,1] v,
            float[{cout},{cin},{kernel},{kernel}] w) => (float[{batch},{cout},{size},{size}] y)
        {{ a = Conv(x, v)  y = Conv<pads=[{p},{p},{p},{p}]>(a, w) }}""")


def ms(model: Model, device: DeviceProfile = T4, precision: str = "int8") -> float:
    return estimate(model, device, precision=precision).ms


@settings(max_examples=40, deadline=None)
@given(
    cin=st.integers(1, 200),
    cout=st.integers(1, 200),
    size=st.integers(1, 40),
    more=st.tuples(st.integers(0, 70), st.integers(0, 70), st.integers(0, 9), st.integers(0, 7)),
    precision=st.sampled_from(["int8", "fp16", "fp32"]),
)
def test_more_to_do_never_takes_less(cin, cout, size, more, precision):
    less = ms(convolution(cin, cout, size), precision=precision)
    wider = convolution(cin + more[0], cout + more[1], size + more[2], 1 + more[3])
    assert less <= ms(wider, precision=precision)
    assert less <= ms(convolution(cin, cout, size, kernel=5), precision=precision)


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(0.05, 1.0),
    what=st.sampled_from(["bandwidth", "peak"]),
    size=st.sampled_from([4, 56, 112]),
)
def test_a_slower_device_is_never_faster(scale, what, size):
    peaks = {p: v * (scale if what == "peak" else 1) for p, v in T4.peaks.items()}
    band = (T4.bandwidth_gbs or 0) * (scale if what == "bandwidth" else 1)
    slower = dataclasses.replace(T4, peaks=peaks, bandwidth_gbs=band)
    model = convolution(64, 64, size)
    assert ms(model) <= ms(model, slower)


@given(st.integers(1, 500), st.sampled_from([1, 8, 32]))
def test_padding_goes_up_to_the_next_multiple(size, multiple):
    assert size <= pad(size, multiple) < size + multiple
    assert pad(size, multiple) % multiple == 0


def test_widths_between_two_multiples_cost_the_same():
    times = {width: ms(convolution(width, 64, 64)) for width in (33, 40, 64, 65)}
    assert times[33] == times[40] == times[64] < times[65]


def test_what_bounds_a_layer():
    def bound(model, device=T4):
        return estimate(model, device, precision="int8").layers[1].bound

    assert bound(convolution(32, 32, 2)) == "floor"
    assert bound(convolution(512, 512, 64)) == "compute"
    thin = dataclasses.replace(T4, bandwidth_gbs=1.0)
    assert bound(convolution(512, 512, 64), thin) == "memory"


def test_a_large_batch_is_no_slower_for_each_item():
    each = [ms(convolution(64, 64, 28, batch)) / batch for batch in (1, 8, 64)]
    assert each == sorted(each, reverse=True)


def test_the_total_is_the_sum_of_the_layers_and_none_beats_the_floor():
    found = estimate(conv_net(32), T4, precision="int8", shapes={"image": (4, 3, 16, 16)})
    assert found.batch == 4
    assert found.ms == pytest.approx(sum(layer.ms for layer in found.layers), rel=1e-12)
    floor = Rates.of(T4).launch / 1e9
    assert all(layer.ms >= floor for layer in found.layers)
    assert all(layer.padded >= layer.macs for layer in found.layers)
    assert found.low_ms < found.ms < found.high_ms
    assert found.throughput == pytest.approx(4 / found.ms * 1e3)


def test_it_is_labelled_and_tells_what_it_was_fitted_to():
    plain = estimate(conv_net(32), T4).to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["schema"], plain["kind"], plain["label"]) == (1, "graphopt-estimate", LABEL)
    assert "estimate" in LABEL
    assert plain["fitted"]["errors"] == dict(fit().errors)
    assert estimate(conv_net(32), T4).to_json() == plain


def test_notes_say_what_nothing_was_fitted_to():
    model = convolution(8, 8)
    mine = DeviceProfile("mine", sm=(8, 9), peaks={"int8": 100.0}, bandwidth_gbs=100.0,
                         precisions=("int8", "fp32"))  # fmt: skip
    (_, note) = estimate(model, mine, precision="int8").notes
    assert "none of the devices" in note
    assert any("fp32: every reference point is INT8" in n for n in estimate(model, T4).notes)
    cpu = dataclasses.replace(mine, sm=None)
    assert any("no NVIDIA GPU" in note for note in estimate(model, cpu, precision="int8").notes)
    assert any("too little to do" in note for note in estimate(model, T4, precision="int8").notes)


@pytest.mark.parametrize(
    ("device", "precision", "told"),
    [
        (DeviceProfile("bare"), None, "on 'bare': its profile lacks 'bandwidth_gbs' and 'peaks'"),
        (DeviceProfile("x", bandwidth_gbs=1.0), None, "lacks 'peaks'"),
        (DeviceProfile("x", peaks={"int8": 1.0}), None, "lacks 'bandwidth_gbs'"),
        (DeviceProfile("x", peaks={"int8": 1.0}, bandwidth_gbs=1.0), "fp16", "'peaks.fp16'"),
        # As the graph says: float32.
        (DeviceProfile("x", peaks={"int8": 1.0}, bandwidth_gbs=1.0), None, "'peaks.fp32'"),
        (DeviceProfile("host"), None, "graphopt profile measures here"),
    ],
)
def test_a_device_of_which_too_little_is_known_is_refused(device, precision, told):
    with pytest.raises(UsageError, match=told) as refused:
        estimate(convolution(8, 8), device, precision=precision)
    assert "\n" not in str(refused.value)


def test_unknown_shapes_are_told_or_refused():
    known = """g (float[1,4,4,4] x, float[4,4,1,1] w) => (float[1,4,4,4] a, float y)
        { a = Conv(x, w)  b = my.Odd(a)  y = Relu(b) }"""
    head = '<ir_version: 8, opset_import: ["" : 17, "my" : 1]>'
    model = parse(head + known)
    model.graph.outputs[1].shape = None
    found = estimate(model, T4)
    assert len(found.layers) == 1
    assert len(found.unknown) == 2
    assert any("unknown shape" in note for note in found.notes)
    none = parse(head + "g (float[N,4] x) => (float[N,4] y) { y = my.Odd(x) }")
    none.graph.outputs[0].shape = None
    with pytest.raises(UnsupportedModelError, match="no shape of the model is known"):
        estimate(none, T4)


def test_generations_have_floors_of_their_own():
    known = fit().constants
    assert Rates.of(T4).launch == round(known.launch_us_before * 1e6)
    assert Rates.of(load_device("l4")).launch == round(known.launch_us * 1e6)
