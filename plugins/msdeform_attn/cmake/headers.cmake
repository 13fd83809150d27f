# The headers of ONNX Runtime and TensorRT: a path that is given, an installed SDK, a pip package,
# ../shared/third_party, or, with OVAVSS_FETCH_HEADERS, a download: ONNX Runtime's from Debian's development package,
# which is small and checked by hash, and both from the upstream repositories. A header that cannot be had leaves out
# one library, and the summary says which.
option(OVAVSS_FETCH_HEADERS "Download missing headers" ON)
set(OVAVSS_DEBIAN_MIRROR "https://deb.debian.org/debian" CACHE STRING "Where Debian's packages are downloaded from")
set(third_party "${PROJECT_SOURCE_DIR}/../../../shared/third_party")

# Downloads `files` below `url`; leaves the folder in `out`, or nothing and a warning.
function(fetch_headers name url files out)
  set(folder "${PROJECT_BINARY_DIR}/headers/${name}")
  foreach(file IN LISTS files)
    if(NOT EXISTS "${folder}/${file}")
      file(DOWNLOAD "${url}/${file}" "${folder}/${file}.part" STATUS status TLS_VERIFY ON
           TIMEOUT 60 INACTIVITY_TIMEOUT 15)
      list(GET status 0 code)
      if(code)
        list(GET status 1 reason)
        file(REMOVE "${folder}/${file}.part")
        message(STATUS "${name}'s headers could not be downloaded: ${url}/${file}: ${reason}")
        return()
      endif()
      file(RENAME "${folder}/${file}.part" "${folder}/${file}")
    endif()
  endforeach()
  set(${out} "${folder}" PARENT_SCOPE)
endfunction()

# Downloads and unpacks a Debian package; leaves the folder of `header` in `out`, or nothing.
function(fetch_debian_headers name package hash header out)
  set(folder "${PROJECT_BINARY_DIR}/headers/${name}-debian")
  if(NOT EXISTS "${folder}/unpacked")
    file(DOWNLOAD "${OVAVSS_DEBIAN_MIRROR}/${package}" "${folder}/package.deb" STATUS status
         TIMEOUT 60 INACTIVITY_TIMEOUT 15)
    list(GET status 0 code)
    if(NOT code)
      file(SHA256 "${folder}/package.deb" found)
    endif()
    if(code OR NOT found STREQUAL hash)
      list(GET status 1 reason)
      message(STATUS "${name}'s headers could not be downloaded: ${OVAVSS_DEBIAN_MIRROR}/${package}: ${reason}")
      file(REMOVE_RECURSE "${folder}")
      return()
    endif()
    file(ARCHIVE_EXTRACT INPUT "${folder}/package.deb" DESTINATION "${folder}")
    file(GLOB data "${folder}/data.tar.*")
    file(ARCHIVE_EXTRACT INPUT ${data} DESTINATION "${folder}/part")
    file(RENAME "${folder}/part" "${folder}/unpacked")
  endif()
  file(GLOB_RECURSE found "${folder}/unpacked/*/${header}")
  if(found)
    list(GET found 0 found)
    get_filename_component(found "${found}" DIRECTORY)
    set(${out} "${found}" PARENT_SCOPE)
  endif()
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
  fetch_debian_headers(onnxruntime pool/main/o/onnxruntime/libonnxruntime-dev_1.21.0+dfsg-1_amd64.deb
                       14f7d959d5deacbcf1504830d4189f91fc67382b399ed9ae9d3aa9c4050ced08 onnxruntime_c_api.h
                       OVAVSS_ONNXRUNTIME_INCLUDE)
  if(NOT OVAVSS_ONNXRUNTIME_INCLUDE)
    set(sources https://raw.githubusercontent.com/microsoft/onnxruntime/v1.21.0/include/onnxruntime/core/session)
    fetch_headers(onnxruntime ${sources} onnxruntime_c_api.h OVAVSS_ONNXRUNTIME_INCLUDE)
  endif()
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
