"""The names that each version's Python module has, of those that a build and a run may touch.

Sources: the bindings in github.com/NVIDIA/TensorRT (python/src/infer/pyCore.cpp and pyInt8.cpp,
python/src/parsers/pyOnnx.cpp) at 8.5 and at 10.13 or later; NVIDIA's "Removed Python APIs" for 11;
TensorRT-RTX 1.7's module, which has the names of 11. Which of the newer names came with 8.6 and
which with 10.0 is from memory, but for those that Polygraphy asks versions for. Facts only: what
they do is the stand-in's own.
"""

from __future__ import annotations

VERSIONS = ("8.5.2.2", "8.6.1.6", "10.0.1.6", "10.13.3.9", "11.0.0.114")

Delta = tuple[str, str]
# For each class: the names of 8.5, then (added, removed) by 8.6, 10.0, 10.13 and 11.0.
_SAME: Delta = ("", "")

TABLE: dict[str, tuple[str, Delta, Delta, Delta, Delta]] = {
    "BuilderFlag": (
        "FP16 INT8 DEBUG GPU_FALLBACK STRICT_TYPES REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS "
        "SAFETY_SCOPE OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS DIRECT_IO "
        "REJECT_EMPTY_ALGORITHMS ENABLE_TACTIC_HEURISTIC",
        ("VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME FP8", ""),
        (
            "BF16 ERROR_ON_TIMING_CACHE_MISS DISABLE_COMPILATION_CACHE WEIGHTLESS STRIP_PLAN "
            "REFIT_IDENTICAL WEIGHT_STREAMING INT4",
            "STRICT_TYPES ENABLE_TACTIC_HEURISTIC",
        ),
        (
            "EDITABLE_TIMING_CACHE REFIT_INDIVIDUAL STRICT_NANS MONITOR_MEMORY FP4 "
            "DISTRIBUTIVE_INDEPENDENCE",
            "",
        ),
        (
            "",
            "FP16 INT8 FP8 BF16 INT4 FP4 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS "
            "DIRECT_IO REJECT_EMPTY_ALGORITHMS WEIGHTLESS",
        ),
    ),
    "NetworkDefinitionCreationFlag": (
        "EXPLICIT_BATCH EXPLICIT_PRECISION",
        _SAME,
        ("STRONGLY_TYPED", "EXPLICIT_PRECISION"),
        ("PREFER_AOT_PYTHON_PLUGINS PREFER_JIT_PYTHON_PLUGINS", ""),
        ("", "EXPLICIT_BATCH"),
    ),
    "MemoryPoolType": (
        "WORKSPACE DLA_MANAGED_SRAM DLA_LOCAL_DRAM DLA_GLOBAL_DRAM",
        ("TACTIC_DRAM", ""),
        ("TACTIC_SHARED_MEMORY", ""),
        _SAME,
        _SAME,
    ),
    "QuantizationFlag": ("CALIBRATE_BEFORE_FUSION", _SAME, _SAME, _SAME, _SAME),
    "PreviewFeature": (
        "FASTER_DYNAMIC_SHAPES_0805 DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805",
        ("PROFILE_SHARING_0806", ""),
        (
            "ALIASED_PLUGIN_IO_10_03",
            "FASTER_DYNAMIC_SHAPES_0805 DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805",
        ),
        ("RUNTIME_ACTIVATION_RESIZE_10_10", ""),
        ("", "PROFILE_SHARING_0806"),
    ),
    "DeviceType": ("GPU DLA", _SAME, _SAME, _SAME, _SAME),
    "ProfilingVerbosity": (
        "LAYER_NAMES_ONLY DETAILED NONE DEFAULT VERBOSE",
        _SAME,
        ("", "DEFAULT VERBOSE"),
        _SAME,
        _SAME,
    ),
    "LayerInformationFormat": ("ONELINE JSON", _SAME, _SAME, _SAME, _SAME),
    "EngineCapability": (
        "DEFAULT SAFE_GPU SAFE_DLA STANDARD SAFETY DLA_STANDALONE",
        _SAME,
        ("", "DEFAULT SAFE_GPU SAFE_DLA"),
        _SAME,
        _SAME,
    ),
    "TacticSource": (
        "CUBLAS CUBLAS_LT CUDNN EDGE_MASK_CONVOLUTIONS JIT_CONVOLUTIONS",
        _SAME,
        _SAME,
        _SAME,
        ("", "CUBLAS CUBLAS_LT CUDNN"),
    ),
    "TensorIOMode": ("NONE INPUT OUTPUT", _SAME, _SAME, _SAME, _SAME),
    "TensorLocation": ("DEVICE HOST", _SAME, _SAME, _SAME, _SAME),
    "DataType": (
        "FLOAT HALF INT8 INT32 BOOL UINT8",
        ("FP8", ""),
        ("BF16 INT64 INT4", ""),
        ("FP4 E8M0", ""),
        _SAME,
    ),
    "LayerType": (
        "CONVOLUTION ACTIVATION POOLING SCALE SOFTMAX CONCATENATION ELEMENTWISE UNARY SHUFFLE "
        "REDUCE MATRIX_MULTIPLY CONSTANT IDENTITY SLICE SHAPE RESIZE SELECT QUANTIZE DEQUANTIZE "
        "FULLY_CONNECTED PLUGIN_V2",
        ("CAST NORMALIZATION", ""),
        ("PLUGIN_V3", "FULLY_CONNECTED"),
        ("SQUEEZE UNSQUEEZE CUMULATIVE DYNAMIC_QUANTIZE", ""),
        _SAME,
    ),
    "Builder": (
        "create_network max_batch_size platform_has_tf32 platform_has_fast_fp16 "
        "platform_has_fast_int8 max_DLA_batch_size num_DLA_cores gpu_allocator "
        "create_optimization_profile error_recorder create_builder_config build_engine "
        "build_serialized_network is_network_supported logger max_threads reset",
        ("get_plugin_registry", ""),
        ("", "max_batch_size build_engine"),
        ("build_serialized_network_to_stream build_engine_with_config", ""),
        (
            "",
            "platform_has_tf32 platform_has_fast_fp16 platform_has_fast_int8 "
            "build_engine_with_config",
        ),
    ),
    "IBuilderConfig": (
        "min_timing_iterations avg_timing_iterations int8_calibrator engine_capability "
        "max_workspace_size set_memory_pool_limit get_memory_pool_limit flags default_device_type "
        "DLA_core clear_flag set_flag get_flag quantization_flags clear_quantization_flag "
        "set_quantization_flag get_quantization_flag reset profile_stream add_optimization_profile "
        "set_calibration_profile get_calibration_profile num_optimization_profiles set_device_type "
        "get_device_type is_device_type_set reset_device_type can_run_on_DLA profiling_verbosity "
        "algorithm_selector set_tactic_sources get_tactic_sources create_timing_cache "
        "set_timing_cache get_timing_cache set_preview_feature get_preview_feature",
        (
            "builder_optimization_level hardware_compatibility_level plugins_to_serialize "
            "max_aux_streams",
            "",
        ),
        ("progress_monitor", "min_timing_iterations max_workspace_size"),
        ("max_num_tactics runtime_platform tiling_optimization_level l2_limit_for_tiling", ""),
        (
            "",
            "int8_calibrator quantization_flags clear_quantization_flag set_quantization_flag "
            "get_quantization_flag set_calibration_profile get_calibration_profile "
            "algorithm_selector",
        ),
    ),
    "INetworkDefinition": (
        "name num_layers num_inputs num_outputs get_layer get_input get_output mark_output "
        "unmark_output remove_tensor has_implicit_batch_dimension error_recorder",
        _SAME,
        ("get_flag flags", ""),
        _SAME,
        ("", "has_implicit_batch_dimension"),
    ),
    "ITensor": (
        "name shape dtype broadcast_across_batch location is_network_input is_network_output "
        "dynamic_range set_dynamic_range reset_dynamic_range is_shape_tensor is_execution_tensor "
        "allowed_formats",
        ("get_dimension_name set_dimension_name", ""),
        _SAME,
        _SAME,
        (
            "",
            "broadcast_across_batch location dynamic_range set_dynamic_range reset_dynamic_range",
        ),
    ),
    "ILayer": (
        "name type num_inputs num_outputs precision precision_is_set reset_precision get_input "
        "set_input get_output set_output_type get_output_type output_type_is_set reset_output_type",
        ("metadata", ""),
        _SAME,
        _SAME,
        (
            "",
            "precision precision_is_set reset_precision set_output_type output_type_is_set "
            "reset_output_type",
        ),
    ),
    "IOptimizationProfile": (
        "set_shape get_shape set_shape_input get_shape_input extra_memory_target",
        _SAME,
        _SAME,
        _SAME,
        _SAME,
    ),
    "ITimingCache": (
        "serialize combine reset",
        _SAME,
        _SAME,
        ("queryKeys query update", ""),
        _SAME,
    ),
    "OnnxParser": (
        "parse parse_with_weight_descriptors parse_from_file supports_operator supports_model "
        "num_errors get_error clear_errors",
        (
            "flags clear_flag set_flag get_flag get_layer_output_tensor "
            "get_used_vc_plugin_libraries",
            "",
        ),
        _SAME,
        ("supports_model_v2 num_subgraphs is_subgraph_supported get_subgraph_nodes", ""),
        ("set_builder_config", "supports_model parse_with_weight_descriptors"),
    ),
    "ParserError": (
        "code desc file line func node",
        _SAME,
        ("node_name node_operator local_function_stack local_function_stack_size", ""),
        _SAME,
        _SAME,
    ),
    "Runtime": (
        "deserialize_cuda_engine DLA_core num_DLA_cores gpu_allocator error_recorder logger "
        "max_threads",
        (
            "temporary_directory tempfile_control_flags get_plugin_registry load_runtime "
            "engine_host_code_allowed",
            "",
        ),
        _SAME,
        _SAME,
        _SAME,
    ),
    "EngineInspector": (
        "execution_context get_layer_information get_engine_information error_recorder",
        _SAME,
        _SAME,
        _SAME,
        _SAME,
    ),
    "ICudaEngine": (
        "num_bindings get_binding_name get_binding_index binding_is_input get_binding_shape "
        "get_binding_dtype has_implicit_batch_dimension max_batch_size num_layers serialize "
        "create_execution_context get_location device_memory_size refittable name "
        "num_optimization_profiles engine_capability get_profile_shape is_shape_binding "
        "num_io_tensors get_tensor_name get_tensor_mode is_shape_inference_io get_tensor_shape "
        "get_tensor_dtype get_tensor_location get_tensor_bytes_per_component get_tensor_format "
        "get_tensor_profile_shape error_recorder tactic_sources profiling_verbosity "
        "create_engine_inspector",
        ("hardware_compatibility_level num_aux_streams get_tensor_profile_values", ""),
        (
            "create_serialization_config serialize_with_config is_debug_tensor",
            "num_bindings get_binding_name get_binding_index binding_is_input get_binding_shape "
            "get_binding_dtype max_batch_size get_location get_profile_shape is_shape_binding",
        ),
        ("device_memory_size_v2 create_runtime_config get_engine_stat", ""),
        ("", "has_implicit_batch_dimension device_memory_size"),
    ),
    "IExecutionContext": (
        "execute execute_async execute_v2 execute_async_v2 execute_async_v3 name engine profiler "
        "debug_sync device_memory active_optimization_profile get_binding_shape set_binding_shape "
        "set_shape_input set_input_shape get_tensor_shape set_tensor_address get_tensor_address "
        "set_output_allocator get_output_allocator get_max_output_size infer_shapes "
        "all_binding_shapes_specified all_shape_inputs_specified set_optimization_profile_async "
        "error_recorder enqueue_emits_profile report_to_profiler persistent_cache_limit "
        "nvtx_verbosity",
        ("set_aux_streams", ""),
        (
            "set_debug_listener",
            "execute execute_async execute_async_v2 get_binding_shape set_binding_shape "
            "set_shape_input all_shape_inputs_specified",
        ),
        ("get_runtime_config", ""),
        _SAME,
    ),
}

CALIBRATORS = (
    "IInt8Calibrator",
    "IInt8LegacyCalibrator",
    "IInt8EntropyCalibrator",
    "IInt8EntropyCalibrator2",
    "IInt8MinMaxCalibrator",
)
MAX_OPSET = dict(zip(VERSIONS, (17, 17, 20, 24, 25), strict=True))


def names_of(kind: str, version: str) -> tuple[str, ...]:
    """Return the names that a class or enumeration has in one of ``VERSIONS``."""
    first, *deltas = TABLE[kind]
    names = first.split()
    for added, removed in deltas[: VERSIONS.index(version)]:
        gone = set(removed.split())
        names = [name for name in names if name not in gone] + added.split()
    return tuple(names)
