# Where pip put things: OVAVSS_SITE_PACKAGES, and OVAVSS_NVIDIA_PACKAGES, the folders of NVIDIA's packages in them.
set(OVAVSS_PYTHON "" CACHE FILEPATH "The Python whose packages are searched, besides the active one and .venv")

set(OVAVSS_SITE_PACKAGES "")
set(OVAVSS_NVIDIA_PACKAGES "")
set(candidates "${OVAVSS_PYTHON}" "$ENV{VIRTUAL_ENV}/bin/python" "${PROJECT_SOURCE_DIR}/../../.venv/bin/python" python3)
foreach(python IN LISTS candidates)
  if(python STREQUAL "" OR (IS_ABSOLUTE "${python}" AND NOT EXISTS "${python}"))
    continue()
  endif()
  execute_process(COMMAND "${python}" -c "import sysconfig; print(sysconfig.get_path('purelib'))"
                  OUTPUT_VARIABLE site OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(NOT failed AND IS_DIRECTORY "${site}")
    list(APPEND OVAVSS_SITE_PACKAGES "${site}")
    file(GLOB folders LIST_DIRECTORIES true "${site}/nvidia/*")
    list(APPEND OVAVSS_NVIDIA_PACKAGES ${folders})  # cu13 in CUDA 13's packages, one folder a package before
  endif()
endforeach()
list(REMOVE_DUPLICATES OVAVSS_SITE_PACKAGES)
list(REMOVE_DUPLICATES OVAVSS_NVIDIA_PACKAGES)
