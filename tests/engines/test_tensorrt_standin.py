"""The stand-in of TensorRT's module is as strict as it claims, and true where that can be seen."""

from __future__ import annotations

import pytest
from engine_models import needs_rtx
from trt_machine import TABLE, V8_5, V8_6, V10, V10_0, V11, VERSIONS, names_of, set_up

# What TensorRT-RTX 1.7 has not of what 10.13 had and no list says that 11 removed.
_NOT_IN_RTX = {
    "NetworkDefinitionCreationFlag": {"PREFER_AOT_PYTHON_PLUGINS", "PREFER_JIT_PYTHON_PLUGINS"},
}


@pytest.fixture
def load(monkeypatch, tmp_path):
    def loaded(version):
        set_up(monkeypatch, tmp_path, version)
        import tensorrt

        return tensorrt

    return loaded


@pytest.mark.parametrize(
    ("owner", "name", "versions"),
    [
        ("BuilderFlag", "INT8", VERSIONS[:-1]),
        ("BuilderFlag", "FP16", VERSIONS[:-1]),
        ("BuilderFlag", "TF32", VERSIONS),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED", (V10_0, V10, V11)),
        ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH", VERSIONS[:-1]),
        ("IBuilderConfig", "builder_optimization_level", (V8_6, V10_0, V10, V11)),
        ("IBuilderConfig", "int8_calibrator", VERSIONS[:-1]),
        ("ICudaEngine", "num_bindings", (V8_5, V8_6)),
        ("IExecutionContext", "execute_async_v2", (V8_5, V8_6)),
        ("IExecutionContext", "execute_async_v3", VERSIONS),
        ("ParserError", "node_name", (V10_0, V10, V11)),
        ("ILayer", "metadata", (V8_6, V10_0, V10, V11)),
    ],
)
def test_a_name_is_there_in_its_versions_alone(load, owner, name, versions):
    for version in VERSIONS:
        assert hasattr(getattr(load(version), owner), name) == (version in versions), version
    for version in VERSIONS:
        trt = load(version)
        assert hasattr(trt, "IInt8EntropyCalibrator2") == (version != V11)
        assert trt.__version__ == version


def test_instances_are_as_strict(load):
    trt = load(V8_5)
    config = trt.Builder(trt.Logger()).create_builder_config()
    with pytest.raises(AttributeError, match="builder_optimization_level"):
        config.builder_optimization_level = 3
    with pytest.raises(AttributeError):
        print(config.builder_optimization_level)
    with pytest.raises(AttributeError):
        config.no_such_thing = 1
    with pytest.raises(AttributeError):
        print(trt.IHostCode)
    # Documented, and more than the stand-in does: loud, and no AttributeError.
    with pytest.raises(NotImplementedError, match=r"IBuilderConfig\.set_device_type"):
        config.set_device_type(None, None)


def test_a_class_whose_base_was_not_initialized_would_crash(load):
    trt = load(V10)

    class Careless(trt.ILogger):
        def __init__(self):
            pass

    with pytest.raises(AssertionError, match=r"ILogger\.__init__"):
        trt.Builder(Careless())


@needs_rtx
@pytest.mark.parametrize("kind", sorted(TABLE))
def test_the_names_of_11_are_in_the_real_module_of_its_kin(kind):
    import tensorrt_rtx

    if kind == "QuantizationFlag":
        assert not hasattr(tensorrt_rtx, kind)
        return
    real = getattr(tensorrt_rtx, kind)
    missing = {name for name in names_of(kind, V11) if not hasattr(real, name)}
    assert missing == _NOT_IN_RTX.get(kind, set()), missing
