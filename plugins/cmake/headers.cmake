# The headers of ONNX Runtime and TensorRT: a path that is given, an installed SDK, a pip package,
# ../shared/third_party, or, with OVAVSS_FETCH_HEADERS, the upstream repositories.
option(OVAVSS_FETCH_HEADERS "Download missing headers from their upstream repositories" OFF)
set(third_party "${PROJECT_SOURCE_DIR}/../shared/third_party")

# Downloads `files` below `url`; leaves the folder in `out`.
function(fetch_headers name url files out)
  set(folder "${PROJECT_BINARY_DIR}/headers/${name}")
  foreach(file IN LISTS files)
    if(NOT EXISTS "${folder}/${file}")
      file(DOWNLOAD "${url}/${file}" "${folder}/${file}.part" STATUS status TLS_VERIFY ON)
      list(GET status 0 code)
      if(code)
        list(GET status 1 reason)
        message(FATAL_ERROR "${url}/${file}: ${reason}; give the folder of ${name}'s headers instead")
      endif()
      file(RENAME "${folder}/${file}.part" "${folder}/${file}")
    endif()
  endforeach()
  set(${out} "${folder}" PARENT_SCOPE)
endfunction()

file(GLOB tensorrt_folders LIST_DIRECTORIES true "${third_party}/tensorrt-*")
list(SORT tensorrt_folders COMPARE NATURAL)  # the oldest first: a plugin built with it loads in later versions too

find_path(OVAVSS_ONNXRUNTIME_INCLUDE onnxruntime_c_api.h DOC "Folder of onnxruntime_c_api.h" HINTS ENV ONNXRUNTIME_ROOT
          PATHS /usr/local/onnxruntime /opt/onnxruntime ${OVAVSS_SITE_PACKAGES} ${third_party}/onnxruntime
          PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session onnxruntime/include)
find_path(OVAVSS_TENSORRT_INCLUDE NvInferRuntime.h DOC "Folder of NvInferRuntime.h" HINTS ENV TENSORRT_ROOT ENV TRT_ROOT
          PATHS /usr/local/tensorrt /opt/tensorrt ${OVAVSS_SITE_PACKAGES} ${tensorrt_folders}
          PATH_SUFFIXES include tensorrt/include tensorrt_libs/include)

# OpenVINO's package brings headers, libraries and configuration; the operator fits this version alone.
find_package(OpenVINO QUIET COMPONENTS Runtime ONNX HINTS ${OVAVSS_SITE_PACKAGES} PATH_SUFFIXES openvino/cmake)

if(OVAVSS_FETCH_HEADERS AND NOT OVAVSS_ONNXRUNTIME_INCLUDE)
  set(sources https://raw.githubusercontent.com/microsoft/onnxruntime/v1.20.1/include/onnxruntime/core/session)
  fetch_headers(onnxruntime ${sources} onnxruntime_c_api.h OVAVSS_ONNXRUNTIME_INCLUDE)
endif()
if(OVAVSS_FETCH_HEADERS AND NOT OVAVSS_TENSORRT_INCLUDE)
  set(files "")
  foreach(part IN ITEMS "" Impl LegacyDims Plugin PluginBase PluginUtils Runtime RuntimeBase RuntimeCommon
          RuntimePlugin Version)
    list(APPEND files NvInfer${part}.h)
  endforeach()
  fetch_headers(tensorrt https://raw.githubusercontent.com/NVIDIA/TensorRT/v10.15/include "${files}"
                OVAVSS_TENSORRT_INCLUDE)
endif()
